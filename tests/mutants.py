# ruff: noqa: E501 - the texts to replace stand as they are in the sources
"""Seeded defects in the kernels, each of which some test must catch: `python -m tests.mutants [NAME...]`.

Every mutant replaces one piece of text in a copy of the tree, which is built and tested. A piece that is no longer
there is an error: the kernel has changed, and the mutant with it. Needs the build tools (CONTRIBUTING.md).
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = [
    "test_kernels.py",
    "test_kernels_tiles.py",
    "test_kernels_slices.py",
    "test_kernels_fresh.py",
    "test_kernels_short.py",
    "test_past_caches.py",
    "test_core.py",
    "test_same_bits.py",
    "test_where.py",
    "test_params.py",
    "test_precision.py",
    "test_not_finite.py",
    "test_fuzz.py",
    "test_plan.py",
]

MUTANTS = {  # name: (file, text, what stands there instead)
    "a dropped tail": ("src/lanes.h", "if (at < (n)) {", "if (0 && at < (n)) {"),
    "a lost carry": ("src/lanes.h", "if (stop < full) {", "if (stop < full && first < 2 * RUN * LANES) {"),
    "a wrong lane": ("src/lanes.h", "t[u] += t[u + half];", "t[u] += t[u];"),
    "a missing merge": ("src/forward.c", "for (ptrdiff_t c = 1; c < cut->chunks; c++)", "for (ptrdiff_t c = 2; c < cut->chunks; c++)"),
    "a missing merge of the backward": ("src/backward_settle.c", "for (ptrdiff_t c = 1; c < b->cut.chunks; c++)", "for (ptrdiff_t c = 2; c < b->cut.chunks; c++)"),
    "a wrong chunk bound": ("src/backward_unit.c", "i < last; i += count) {\n        const fn_block k = fn_cut_blocks(b->job", "i + 1 < last; i += count) {\n        const fn_block k = fn_cut_blocks(b->job"),
    "rows of a slice not merged": ("src/rows_tmpl.c", "if (begun) merge(1,", "if (r > most) merge(1,"),
    "what merges round away is lost": ("src/norm.c", "into.low[i] = all <= DBL_MAX ? more - (all - q) : 0;", "into.low[i] = 0;"),
    "a weight outside is let in": ("src/backward_unit.c", "inside > 0 ? fn_row_weight(b, k, r) : 0;", "fn_row_weight(b, k, r);"),
    "a long row beyond the fast path taken for done": ("src/longer_tmpl.c", "&high, &low, &rstd)) return r;", "&high, &low, &rstd)) continue;"),
    "a streamed tail dropped": ("src/lanes.h", "STREAM16N(p, v, k);", "(void)0;"),
    "padding left beyond the range": ("src/tile_tmpl.c", "if (!FN(is_finite)(v) && FN(is_finite)(e)) v =", "if (0) v ="),
    "a wrong count": ("src/backward_unit.c", "fn_count_row(in->mask, r, k->width) : 1;", "(double)k->width : 1;"),
    "a missing centre correction": ("src/backward_block.c", "s.shift = x / count;", "s.shift = 0;"),
    "a missing centre correction of whole rows": ("src/slices_tmpl.c", "c = fn_moved(gx, s, g) * share;", "c = gx * share;"),
    "a missing centre correction of single rows": ("src/slices_tmpl.c", "c = fn_moved(gx[i], s, g[i]) * share;", "c = gx[i] * share;"),
    "narrow columns without their single rows": ("src/cols_tmpl.c", "if (single) FN(sweep_tiles_moments)", "if (single && !many) FN(sweep_tiles_moments)"),
    "rows' sums around a mean that is not corrected": ("src/backward_block.c", "if (any_shift(b, k, u)) p.shift = fn_by_slot(b, u->shift);", ""),
    "rows' sums that left the range left so": ("src/summing_tmpl.c", "if (!all) FN(resum_rows)", "if (0) FN(resum_rows)"),
    "a bias of each row without its sums": ("src/slices_tmpl.c", "p->mean || p->centre || p->sums.g;", "p->mean || p->centre;"),
    "a bias without its columns' sums": ("src/backward_unit.c", ".without_g = !job->dbias,", ".without_g = 1,"),
    "turned tiles of another's steps": ("src/narrow_tmpl.c", "(fn_runs){rows, x->step, dy->step, y->step};", "(fn_runs){rows, x->step, x->step, y->step};"),
    "runs of a weight by row taken together": ("src/forward.c", "!p.weight.step && !p.bias.step && ", ""),
    "longer blocks of rows that do not adjoin": ("src/job.c", "fn_tile_adjacent(job, o) && rows->stride[o] != row_bytes) return 1;", "0) return 1;"),
    "narrow columns of one run of rows": ("src/narrow_tmpl.c", "i < many * n; i += n)", "i < n; i += n)"),
    "narrow parameters that are not repeated": ("src/narrow_tmpl.c", "memcpy(to + i * n, p.a,", "memcpy(to, p.a,"),
    "long rows of their last piece": ("src/rows_tmpl.c", "g += of[0];", "g = of[0];"),
    "a short row's tail let in": ("src/short_tmpl.c", "(vec)((ivec)d[u] & inside)", "d[u]"),
    "the last short rows left out": ("src/short_tmpl.c", "(cells - turned) / 4 * 4;", "(cells - turned);"),
    "pieces of a row not merged": ("src/rows_tmpl.c", "if (begun) merge(1,", "if (r > 0) merge(1,"),
    "the last middle rows left out": ("src/middle_tmpl.c", "return cells / 4 * 4;", "return cells;"),
    "a remainder among many kept": ("src/finalize_tmpl.c", "(V)((I)rest & ~(rest * rest < SLIGHT * SLIGHT * var))", "rest"),
    "the last of many beyond the fast path taken for done": ("src/vec_sum.h", "return (v[0] & v[1]) != 0;", "return v[0] != 0;"),
    "an early vector beyond the fast path taken for done": ("src/finalize_tmpl.c", "fine &= FN(finalize_some)", "fine = FN(finalize_some)"),
    "an early vector of products taken undivided": ("src/slices_tmpl.c", "some &= FN(divide_some)", "some = FN(divide_some)"),
    "the last rows' products taken undivided": ("src/slices_tmpl.c", "rest &= FN(divide_one)", "rest |= FN(divide_one)"),
    "a gain of a row beyond the fast path left out": ("src/slices_tmpl.c", "if (p->gains) ((A *)p->gains)[first * p->gains_step]", "if (p->gains && n < 0) ((A *)p->gains)[first * p->gains_step]"),
    "gains apart written together": ("src/slices_tmpl.c", "(!p->gains || p->gains_step == 1)", "1"),
    "the rows of a half turned vector exchanged": ("src/turned_tmpl.c", "LOADN(row + (i + HALF) * step, n, 0)", "LOADN(row + (HALF - 1 - i + HALF) * step, n, 0)"),
    "slices whose rstd is infinite left so": ("src/backward.c", "if (isinf(fn_get(job, job->rstd, offset[FN_STAT])))", "if (plan->rows < 0)"),
    "columns beyond a turned row let in": ("src/turned_tmpl.c", "FIRST(j < n ? VL : 0)", "FIRST(VL)"),
    "the last turned rows left out": ("src/turned_tmpl.c", "#undef TURNED_CELLS\n    return c;", "#undef TURNED_CELLS\n    return cells;"),
    "turned products of the first rows alone": ("src/turned_tmpl.c", "store_f64(products + i, PART(c, i));", "store_f64(products + i, PART(c, 0));"),
    "short rows' shift left out": ("src/few_tmpl.c", "centred ? xhat - shift : xhat", "xhat"),
    "short rows without their remainder": ("src/few_tmpl.c", "(v - mean) - comp : v", "(v - mean) - 0 * comp : v"),
    "short rows of one bias": ("src/few_tmpl.c", "xhat + (bias_along ? b[u] : bias)", "xhat + (bias_along ? b[0] : bias)"),
    "pieces that begin with the last one's sums": ("src/backward_pieces.c", "memset(w->work, 0, (size_t)(2 * n * size));", "if (!row && !first) memset(w->work, 0, (size_t)(2 * n * size));"),
    "pieces of many rows that end with the first ones": ("src/backward_pieces.c", "if (together && end - row == rows &&", "if (together &&"),
    "a piece's sums beyond the range taken as they are": ("src/backward_pieces.c", "if (!together || verbs->finish_cols(n, w->work, NULL, NULL))", "if (!together)"),
    "merged rows of the next ones' parameters": ("src/backward_unit.c", "(fn_is_merged(job) && (i + 1) % cut->row_blocks == 0)", "(fn_is_merged(job) && i < 0)"),
    "merged rows whose axes stay as they are": ("src/plan.c", "if (!fn_plan_params_vary(&plan->kept[i])) continue;", "if (1) continue;"),
    "a guess of columns that is not shared": ("src/cols_tmpl.c", "if (centre && fold > 1) FN(share_guesses)(n, fold, c);", "(void)0;"),
    "a slice's sums of its last row alone": ("src/backward_interleaved.c", "sums.gx[i * step] += row.gx[i];", "sums.gx[i * step] = row.gx[i] + (step ? sums.gx[i] : 0);"),
    "a slice's rows by the scalars of its neighbours": ("src/backward_interleaved.c", "{u->c2, step, 0}", "{u->c2, 1, 0}"),
    "rows written backwards with the first one's weight first": ("src/slices_tmpl.c", "q.weight = FN(param_backwards)(weight, per);", "q.weight = weight;"),
    "rows written backwards with the first one's bias first": ("src/slices_tmpl.c", "q.bias = FN(param_backwards)(q.bias, per);", ""),
    "short rows' column sums of the last row alone": ("src/few_tmpl.c", "sum_gx[u] += gx;", "sum_gx[u] = gx;"),
    "the second row's mean not corrected": ("src/longer_tmpl.c", "shifts[i] != 0 || shifts[i + together - 1] != 0", "shifts[i] != 0"),
    "single rows taken by twos": ("src/longer_tmpl.c", "some < FN_TOGETHER ? some : FN_TOGETHER", "FN_TOGETHER"),
    "a pair of rows that begins with the last of four": ("src/longer_tmpl.c", "in_pairs && i % 2 == 0 && low", "in_pairs && low"),
    "a far guess among four rows used": ("src/longer_tmpl.c", "if (of.far || !all_of_four(fine)) break;", "if (!all_of_four(fine)) break;"),
    "four rows with one beyond the fast path taken for done": ("src/longer_tmpl.c", "if (of.far || !all_of_four(fine)) break;", "if (of.far) break;"),
    "some rows' sums used that are not finite": ("src/longer_tmpl.c", "if (!all_of_four(finite)) break;", "(void)finite;"),
    "the rounding of a mean of 0 corrected": ("src/longer_tmpl.c", "SUMFOUR(of_sx) & (deviations != 0)", "SUMFOUR(of_sx)"),
    "a missing centre correction of some rows": ("src/longer_tmpl.c", "(gx - moved) * share", "gx * share"),
    "some rows' weights not in their scalars": ("src/longer_tmpl.c", "gx = 0 + weight * gx;", "gx = 0 + gx;"),
    "few columns summed anew": ("src/few_cols_tmpl.c", "sum[u] += t;", "sum[u] = t;"),
    "few columns' sums not centred": ("src/few_cols_tmpl.c", "xs[u] += tx;", "xs[u] = tx;"),
    "four rows where fewer are left": ("src/longer_tmpl.c", "for (; r + 4 <= rows; r += 4) {", "for (; r + 3 <= rows; r += 4) {"),
    "a mean alone without its remainder": ("src/tile_tmpl.c", "APPLY_EACH(0, 1, 1, 0, 0, ABSENT, BY_ROW);", "APPLY_EACH(0, 1, 0, 0, 0, ABSENT, BY_ROW);"),
    "a mean left there where there is no bias": ("src/tile_tmpl.c", "} else if (!p->mean.a && bias == ABSENT) {", "} else if (bias == ABSENT) {"),
    "a mean that came nearer taken as it is": ("src/forward.h", "job->given || stats->prescaled;", "job->given;"),
    "a gradient of the mean alone for any other": ("src/tile_tmpl.c", "else if (!scaled)", "else if (!along)"),
    "a far guess among four kept": ("src/middle_tmpl.c", "far && i < 4", "far && i < 3"),
    "short rows of a wrong mean": ("src/short_tmpl.c", "const ptrdiff_t row = r + i;", "const ptrdiff_t row = r;"),
    "units abreast share their sums": ("src/backward.c", "fn_sums_of_block(b, &u[j].unit, c, i, &u[j], w);", "fn_sums_of_block(b, &u[j].unit, c, i, &u[0], w);"),
    "units abreast share their statistics": ("src/forward.c", "settle_unit(f, &u[j].unit, &u[j]);", "settle_unit(f, &u[j].unit, &u[0]);"),
    "a copied parameter cut short": ("src/operands.c", "memcpy(packed, job->data[operand] + plan->offset[operand], (size_t)(elements * size));", "memcpy(packed, job->data[operand], (size_t)(elements * size) / 2);"),
    "rows across lines by another way's lanes": ("src/vec_walk.h", "load_##K(line), lane + first};", "load_##K(line), (lane + first) & (2 * VBYTES / (INT)sizeof(A) - 2)};"),
    "results of a block's runs left out": ("src/forward.c", "i < b->runs; i++) {\n        fn_tile y", "i < 1; i++) {\n        fn_tile y"),
    "gradients of a block's runs left out": ("src/backward_block.c", "i < k->runs; i++", "i < 1; i++"),
    "sums of a block's runs left out": ("src/cols_tmpl.c", "FN(sweep_all_dots)(FN(run_of)(dy, i, runs.dy),", "FN(sweep_all_dots)(FN(run_of)(dy, 0, runs.dy),"),
    "denormals taken for 0": ("src/vec16.h", "return denormal ? round_bf16(v) : converted_bf16(v);", "return converted_bf16(v);"),
    "regions of one's statistics": ("src/regions_tmpl.c", "FN(by_column)(n, fold, rstd + i * p->stats, rstds);", "FN(by_column)(n, fold, rstd, rstds);"),
    "a region beyond the fast path taken for done": ("src/regions_tmpl.c", "high, low, rstd)) return i;", "high, low, rstd)) continue;"),
    "blocks of a region not merged": ("src/regions_tmpl.c", "if (r) merge(slices, all, more);", "(void)0;"),
    "the last parameters left out": ("src/params_tmpl.c", "i < n; i++) out[i] = LOAD1(", "i < n - 1; i++) out[i] = LOAD1("),
    "running variances left biased": ("src/params_tmpl.c", "if (count) b *= load_f64(count + i) / (load_f64(count + i) - 1);", ""),
    "far running variances seen in the last ones alone": ("src/params_tmpl.c", "within &= ~(r", "within = ~(r"),
    "a missing centre correction of columns": ("src/regions_tmpl.c", "gx[f] = fn_moved(gx[f], s, g[f]);", "(void)g;"),
    "the last of a slice's columns left out": ("src/regions_tmpl.c", "tgx[i] += weight * of.gx[j];", "tgx[i] += 0;"),
    "column sums carried twice": ("src/summing_tmpl.c", "memset(work, 0, 2 * (size_t)n * sizeof(A));", "(void)0;"),
    "sums beyond the range left so": ("src/rows_tmpl.c", "if (!all) FN(resum_rows)", "if (0 && !all) FN(resum_rows)"),
    "column sums beyond the range left so": ("src/summing_tmpl.c", "return !all;", "if (!all) memset(work, 0, 2 * (size_t)n * sizeof(A));\n    return 0;"),
    "a swapped weight": ("src/operands.c", "from + i * step, slice,", "from + (fold - 1 - i) * step, slice,"),
    "a wrong stride": ("src/operands.c", "copy_strided(job->data[FN_Y] + offset[FN_Y] + r * step,", "copy_strided(job->data[FN_Y] + offset[FN_Y] + r * width * size,"),
    "a dimension not turned": ("src/plan.c", "plan->offset[o] += (a.len - 1) * a.stride[o];", "plan->offset[o] += a.len * a.stride[o];"),
    "axes merged that do not touch": ("src/plan.c", "if (outer->stride[o] != inner->stride[o] * inner->len) return 0;", "if (o != FN_WEIGHT && outer->stride[o] != inner->stride[o] * inner->len) return 0;"),
    "a variance of another slice": ("src/forward.c", "first[o] = offset[o] + i * axis->stride[o];", "first[o] = offset[o];"),
}  # fmt: skip


def main(names):
    unknown = [name for name in names if name not in MUTANTS]
    if unknown:
        sys.exit(f"no mutant is called {unknown[0]!r}; there are: {', '.join(MUTANTS)}")
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "fastnorm"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "build", "venv", "__pycache__"))
        for name in names or MUTANTS:
            caught = caught_by(name, tree, Path(folder) / "installed")
            print(f"{name}: {caught or 'SURVIVED'}", flush=True)
            if not caught:
                survivors.append(name)
    print(f"{len(survivors)} of {len(names or MUTANTS)} survived")
    return int(bool(survivors))


def caught_by(name, tree, target):
    """The first test that fails on this mutant, or None."""
    file, text, instead = MUTANTS[name]
    source = (tree / file).read_text()
    if text not in source:
        sys.exit(f"{name}: {file} no longer holds {text!r}; the mutant must follow the kernel")
    (tree / file).write_text(source.replace(text, instead))
    try:
        build(tree, target)
        for test in TESTS:
            if failed := failing(tree / "tests" / test, target):
                return failed
    finally:
        (tree / file).write_text(source)
    return None


def build(tree, target):
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    settings = ["setup-args=-Doptimization=1", f"build-dir={tree}/build/mutants"]
    options = [f"--config-settings={setting}" for setting in settings]  # -C is not known to pip before 23.1
    subprocess.run([*command, *options, "--target", str(target), str(tree)], check=True)


def failing(test, target):
    """The first test of this file that fails, or that the mutant ended; None if all pass."""
    command = [sys.executable, "-S", "-c", RUN, str(target), str(test)]
    site = os.pathsep.join(p for p in sys.path if p.endswith("site-packages"))
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": site}, cwd=test.parent
    )
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return (
        found[1]
        if found
        else f"{test.name}, exit status {done.returncode}: {done.stdout[-200:]}{done.stderr[-200:]}"
    )


# -S leaves out the site's .pth files, and with them an editable install of the sound tree
RUN = """
import sys
sys.path[0:0] = [sys.argv[1]]
import fastnorm, pytest
assert fastnorm.__file__.startswith(sys.argv[1]), fastnorm.__file__
sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--timeout=120", sys.argv[2]]))
"""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
