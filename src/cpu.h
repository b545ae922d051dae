/* The tiers that this build holds and this processor can run, worst first. */
#ifndef FN_CPU_H
#define FN_CPU_H

#include "norm.h"

int fn_cpu_tiers(const fn_tier *tiers[], int most);

#endif
