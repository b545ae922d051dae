/* Sleeping until a word changes: the kernel's futex, elsewhere one lock for all. */
#ifndef FN_WAIT_H
#define FN_WAIT_H

#include <stdatomic.h>
#include <stdint.h>

/* while *word is value, for so many nanoseconds (0, or without a futex: for ever); may also return for no reason */
void fn_wait(atomic_uint *word, unsigned value, int64_t ns);
void fn_wake(atomic_uint *word, int threads); /* so many of those that wait */
void fn_sleep(int64_t nanoseconds);

#endif
