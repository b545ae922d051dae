/* Memory of large results, kept for the next ones: a page that is touched for the first time costs more than all that
 * a norm does to it.
 *
 * A block is a mapping of its own whose data start in the first page of a huge one, so that the threads that write them
 * take few page faults. What is given back is retained up to a bound and handed out again to a request that fits; beyond
 * the bound the blocks longest unused go back to the system. Safe to call from any thread, and after a fork. */
#ifndef FN_POOL_H
#define FN_POOL_H

#include <stddef.h>

enum { FN_POOL_LEAST = 128 << 10 }; /* smaller blocks the C library keeps itself */

typedef struct {
    size_t bound, retained; /* bytes */
    size_t blocks;          /* retained */
    size_t fresh, reused;   /* requests so far, by where their memory came from */
} fn_pool_state;

/* Where in a page this thread's next block starts: far from a and b (or NULL), which will be read while it is written.
 * A processor tells loads from earlier stores by the low 12 bits of their addresses first: a result that stands a little
 * behind its source, by these bits, has most loads wait for a store that does not concern them (three times the time). */
void fn_pool_beside(const void *a, const void *b);

/* `bytes` of memory with any content; NULL: there is none */
void *fn_pool_take(size_t bytes);
void fn_pool_give(void *data);
/* the same content in `bytes` of memory, at another place perhaps; NULL: there is none, and `data` stays */
void *fn_pool_resize(void *data, size_t bytes);

/* retain no more than so much from now on */
void fn_pool_bound(size_t bytes);
fn_pool_state fn_pool_now(void);

#endif
