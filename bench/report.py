"""What a run says: the table, its geometric means, where we are behind, and how two runs differ."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

OURS = "fastnorm"
COLUMNS = f"{'case':<64} {'thr':>3} {'us':>10} {'GB/s':>7} {'limit':>6}"


@dataclass(frozen=True)
class Result:
    """One case at one number of threads: best seconds of every implementation, ours among them."""

    layout: str
    direction: str
    dtype: str
    size: str
    shape: tuple[int, ...]
    threads: int
    traffic: int
    limit: float
    seconds: dict[str, float]

    @property
    def case(self) -> str:
        return f"{self.layout} {self.direction} {self.dtype} {self.size} {tuple(self.shape)}"

    @property
    def ours(self) -> float:
        return self.seconds[OURS]

    @property
    def ratios(self) -> dict[str, float]:
        """Each peer's time over ours."""
        return {name: t / self.ours for name, t in self.seconds.items() if name != OURS}

    @property
    def lead(self) -> float:
        """The fastest peer's time over ours: below 1 we are behind. NaN without a peer."""
        return min(self.ratios.values(), default=math.nan)

    @property
    def share(self) -> float:
        """The memory limit's time over ours; NaN for small arrays, where the call itself dominates."""
        return math.nan if self.size == "small" else self.limit / self.ours

    def to_json(self) -> dict:
        """Plain data."""
        return asdict(self)


def header(peers: Iterable[str]) -> str:
    """The head of the table."""
    return COLUMNS + "".join(f" {'x ' + name:>8}" for name in peers)


def line(result: Result, peers: Iterable[str]) -> str:
    """One line of the table; the name of the fastest peer stands at the end where we are behind it."""
    share = "" if math.isnan(result.share) else f"{result.share:.0%}"
    cells = [f"{result.case:<64} {result.threads:>3} {result.ours * 1e6:>10.1f}"]
    cells.append(f"{result.traffic / result.ours / 1e9:>7.1f} {share:>6}")
    for name in peers:
        ratio = result.ratios.get(name)
        cells.append(f"{'-':>8}" if ratio is None else f"{ratio:>8.2f}")
    if result.lead < 1:
        cells.append(f"  behind {min(result.ratios, key=result.ratios.get)}")
    return " ".join(cells)


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of the finite values; NaN without any."""
    logs = [math.log(v) for v in values if math.isfinite(v)]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def summary(results: list[Result], peers: Iterable[str]) -> str:
    """Geometric means over the table, and every case where a peer is faster."""
    text = [
        "",
        "geometric means: fastest peer's time / ours, share of the memory limit (not of small arrays)",
    ]

    def add(title: str, chosen: list[Result]) -> None:
        if not chosen:
            return
        lead = geometric_mean(r.lead for r in chosen)
        share = geometric_mean(r.share for r in chosen)
        text.append(f"  {title:<24} {len(chosen):>4} cases  lead {lead:>6.2f}  limit {_percent(share):>5}")

    add("all", results)
    for key in ("direction", "size", "dtype", "threads", "layout"):
        for value in dict.fromkeys(getattr(r, key) for r in results):
            title = f"{value} threads" if key == "threads" else str(value)
            add(title, [r for r in results if getattr(r, key) == value])
    text.append("")
    for name in peers:
        if measured := [r.ratios[name] for r in results if name in r.ratios]:
            text.append(f"{name} takes {geometric_mean(measured):.2f} times our time")
    behind = sorted((r for r in results if r.lead < 1), key=lambda r: r.lead)
    text.append(f"behind the fastest peer in {len(behind)} of {len(results)} cases")
    for r in behind:
        text.append(f"  {r.lead:.2f}  {r.case}, {r.threads} threads: {min(r.ratios, key=r.ratios.get)}")
    return "\n".join(text)


def markdown(results: list[Result], peers: Iterable[str]) -> str:
    """README's tables: means over all layouts, and every layout in float32, cache-resident, on one thread."""
    return f"{_means(results)}\n\n{_layouts(results, list(peers))}"


def _means(results: list[Result]) -> str:
    """For each dtype and size: the fastest peer's time over ours, and our share of the limit, by threads."""
    threads, sizes = sorted({r.threads for r in results}), list(dict.fromkeys(r.size for r in results))
    titles = " | ".join(f"{size} | of the limit" for size in sizes)
    text = [f"| threads {' / '.join(map(str, threads))} | {titles} |"]
    text.append("| --- " * (1 + 2 * len(sizes)) + "|")
    for dtype in dict.fromkeys(r.dtype for r in results):
        cells = []
        for size in sizes:
            alike = [r for r in results if (r.dtype, r.size) == (dtype, size)]
            chosen = [[r for r in alike if r.threads == count] for count in threads]
            cells.append(" / ".join(f"{geometric_mean(r.lead for r in rs):.1f}" for rs in chosen))
            cells.append(" / ".join(_percent(geometric_mean(r.share for r in rs)) for rs in chosen))
        text.append(f"| {dtype} | {' | '.join(cells)} |")
    return "\n".join(text)


def _layouts(results: list[Result], peers: list[str]) -> str:
    fewest = min(r.threads for r in results)
    chosen = [r for r in results if (r.dtype, r.size, r.threads) == ("float32", "cache", fewest)]
    present = [name for name in peers if any(name in r.ratios for r in chosen)]
    text = [f"| layout | | us | of the limit | {' | '.join(present)} |", "| --- " * (4 + len(present)) + "|"]
    for r in chosen:
        ratios = " | ".join(f"{r.ratios[name]:.1f}" if name in r.ratios else "" for name in present)
        text.append(
            f"| {r.layout} {r.shape} | {r.direction} | {r.ours * 1e6:.0f} | {r.share:.0%} | {ratios} |"
        )
    return "\n".join(text)


def compare(before: dict, after: dict) -> str:
    """How our times changed between two runs, the largest change first."""
    old, new = ({(r.case, r.threads): r for r in load(run)} for run in (before, after))
    common = [key for key in new if key in old]
    if not common:
        return "the two runs have no case in common"
    faster = {key: old[key].ours / new[key].ours for key in common}
    text = [f"{'case':<64} {'thr':>3} {'before us':>10} {'after us':>10} {'faster':>7} {'peers':>7}"]
    for key in sorted(common, key=lambda key: -abs(math.log(faster[key]))):
        times = f"{old[key].ours * 1e6:>10.1f} {new[key].ours * 1e6:>10.1f}"
        text.append(
            f"{key[0]:<64} {key[1]:>3} {times} {faster[key]:>7.2f} {_peers(old[key], new[key]):>7.2f}"
        )
    text.append(f"{len(common)} cases: {geometric_mean(faster.values()):.3f} times faster (geometric mean)")
    drift = geometric_mean(_peers(old[key], new[key]) for key in common)
    text.append(f"the peers, whose code is the same: {drift:.3f} (what the machine did)")
    return "\n".join(text)


def load(run: dict) -> list[Result]:
    """The results of a JSON file."""
    return [Result(**{**r, "shape": tuple(r["shape"])}) for r in run["results"]]


def _peers(old: Result, new: Result) -> float:
    """How many times faster the peers were, geometric mean."""
    names = old.ratios.keys() & new.ratios.keys()
    return geometric_mean(old.seconds[name] / new.seconds[name] for name in names)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}"
