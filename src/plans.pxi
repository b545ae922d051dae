# For tests: the planner, and how the drivers cut what it plans, without a kernel.

cdef int make_plan(fn_plan *plan, fn_axis *c_axes, axes, ptrdiff_t size) except -1:
    cdef int i, o, count = len(axes)
    if count > FN_MAXDIM or len(OPERANDS) != FN_NOPERANDS:
        raise ValueError(f"{count} axes, {len(OPERANDS)} operands")
    for i, (length, reduced, strides) in enumerate(axes):
        c_axes[i].len, c_axes[i].reduced = length, reduced
        for o in range(FN_NOPERANDS):
            c_axes[i].stride[o] = strides.get(OPERANDS[o], 0)
    fn_plan_make(plan, count, c_axes, size)
    return 0


cdef dict by_operand(const ptrdiff_t *numbers):
    return {name: numbers[o] for o, name in enumerate(OPERANDS) if numbers[o]}


cdef tuple axis_of(const fn_axis *axis):
    return axis.len, bool(axis.reduced), by_operand(axis.stride)


def plan(axes, ptrdiff_t size):
    """fn_plan_make as a dict. axes: (length, reduced, {operand: stride}) each; size: bytes of an element of x."""
    cdef fn_plan p
    cdef fn_axis c_axes[65]
    make_plan(&p, c_axes, axes, size)
    return {
        "offset": by_operand(p.offset), "cols": bool(p.cols), "inner": axis_of(&p.inner), "fold": axis_of(&p.fold),
        "n": p.n, "kept": [axis_of(&p.kept[i]) for i in range(p.nkept)],
        "reduced": [axis_of(&p.reduced[i]) for i in range(p.nreduced)],
        "regions": p.regions, "rows": p.rows, "count": p.count,
    }


def cut(axes, ptrdiff_t size, ptrdiff_t compute_size, bint backward=False):
    """How the drivers cut this plan: a dict, with the blocks as (unit, chunk, runs, rows, width, offset of x, run step
    of x, row step of x, column step of x)."""
    cdef fn_job job
    cdef fn_axis c_axes[65]
    cdef fn_verbs verbs
    cdef fn_cut c
    cdef fn_unit unit
    cdef fn_block block
    cdef ptrdiff_t u, b, row_step, column_step, start
    memset(&job, 0, sizeof(job))
    memset(&verbs, 0, sizeof(verbs))
    verbs.size, verbs.compute_size = size, compute_size
    job.verbs = &verbs
    job.data[0] = <char *> &job  # where x begins
    if backward:
        job.data[FN_DY] = <char *> &job  # there is one, nobody looks at it
    make_plan(&job.plan, c_axes, axes, size)
    c = fn_cut_make(&job)
    row_step, column_step = fn_row_axis(&job, &c).stride[0], fn_plan_step(&job.plan, 0)
    blocks = []
    for u in range(c.units):
        unit = fn_cut_unit(&job, &c, u)
        for b in range(c.blocks):
            if c.interleaved:
                start = fn_interleaved_row(&job, &unit, b, 0).base - job.data[0]
                blocks.append((u, b // c.chunk_blocks, 1, unit.slices, unit.width, start, 0, row_step, column_step))
                continue
            block = fn_cut_block(&job, &c, &unit, b)
            blocks.append((u, b // c.chunk_blocks, block.runs, block.rows, block.width, block.offset[0],
                           fn_run_axis(&job).stride[0] if block.runs > 1 else 0, row_step, column_step))
    return {"whole_rows": bool(c.many_rows or c.interleaved), "units": c.units, "chunks": c.chunks, "blocks": blocks}
