"""What a run of bench.bench_recurrent says: a line for each measurement, and the table of the README."""

MILLI = 1e-3

# A line of the table: what is divided by what, and what is wanted.
RATIOS = (
    (
        "LayerNorm-LSTM: PyTorch, eager / here",
        "torch eager LayerNorm-LSTM",
        "fastnorm LayerNorm-LSTM",
        "4 or more",
    ),
    (
        "LayerNorm-LSTM: TorchScript / here",
        "torch script LayerNorm-LSTM",
        "fastnorm LayerNorm-LSTM",
        "4 or more",
    ),
    (
        "LayerNorm-LSTM: JAX, jit and scan / here",
        "jax LayerNorm-LSTM",
        "fastnorm LayerNorm-LSTM",
        "4 or more",
    ),
    (
        "torch.nn.LSTM without norm / LayerNorm-LSTM here",
        "torch LSTM",
        "fastnorm LayerNorm-LSTM",
        "1.0 or more",
    ),
    ("torch.nn.LSTM / LSTM here", "torch LSTM", "fastnorm LSTM", "1.0 or more"),
    ("torch.nn.GRU / GRU here", "torch GRU", "fastnorm GRU", "1.0 or more"),
    ("LayerNorm-LSTM / LSTM, both here", "fastnorm LayerNorm-LSTM", "fastnorm LSTM", "1.10 or less"),
    (
        "LayerNorm-LSTM: with recompute / without",
        "fastnorm recompute LayerNorm-LSTM",
        "fastnorm LayerNorm-LSTM",
        "",
    ),
)
TIMES = ("fastnorm LayerNorm-LSTM", "fastnorm LSTM", "fastnorm GRU")


def line(result: dict, unit: float = MILLI) -> str:
    """Everyone's time in one case."""
    times = ", ".join(f"{name} {seconds / unit:.2f}" for name, seconds in result["seconds"].items())
    return f"{tuple(result['shape'])} threads {result['threads']} {'ms' if unit == MILLI else 'us'}: {times}"


def markdown(run: dict) -> str:
    """A row for each figure, a column for each shape; a cell holds a value for each number of threads."""
    shapes = list(dict.fromkeys(tuple(step["shape"]) for step in run["steps"]))
    threads = list(dict.fromkeys(step["threads"] for step in run["steps"]))
    seconds = {(tuple(step["shape"]), step["threads"]): step["seconds"] for step in run["steps"]}
    counts = " / ".join(map(str, threads))
    head = f"(T, B, I, H); {counts} threads" if len(threads) > 1 else f"(T, B, I, H); threads: {counts}"
    rows = [[head, *map(str, shapes), "wanted"], ["---"] * (len(shapes) + 2)]

    def add(title, value, wanted=""):
        cells = [" / ".join(value(seconds[shape, count]) for count in threads) for shape in shapes]
        rows.append([title, *cells, wanted])

    for name in TIMES:
        add(f"{name.removeprefix('fastnorm ')}, ms", lambda times, name=name: f"{times[name] / MILLI:.1f}")
    for title, over, under, wanted in RATIOS:
        if any(over in times for times in seconds.values()):

            def ratio(times, over=over, under=under):
                return f"{times[over] / times[under]:.2f}" if over in times else "-"

            add(title, ratio, wanted)
    rows += memory_rows(run, shapes)
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + ["", *stream_sentences(run)])


def memory_rows(run: dict, shapes: list[tuple]) -> list[list[str]]:
    """Peak memory, ours in MiB and as a share of PyTorch's."""
    nbytes = {tuple(entry["shape"]): entry["nbytes"] for entry in run["memory"]}
    if not nbytes:
        return []
    rows = []
    for name in next(iter(nbytes.values())):
        cells = [f"{nbytes[shape][name] / 2**20:.0f}" for shape in shapes]
        rows.append([f"peak memory of a step, MiB: {name}", *cells, ""])
    peer = "torch LayerNorm-LSTM"
    if all(peer in entry for entry in nbytes.values()):
        cells = [f"{nbytes[shape]['fastnorm LayerNorm-LSTM'] / nbytes[shape][peer]:.2f}" for shape in shapes]
        rows.append(["peak memory: LayerNorm-LSTM here / PyTorch, eager", *cells, "0.5 or less"])
    return rows


def stream_sentences(run: dict) -> list[str]:
    """The streaming step, one sentence for each number of threads."""
    sentences = []
    for result in run["stream"]:
        times = {name: seconds * 1e6 for name, seconds in result["seconds"].items()}
        told = ", ".join(f"{name} {time:.1f}" for name, time in times.items())
        _, _, inputs, units = result["shape"]
        text = f"A streaming step, input {inputs}, hidden {units}, threads {result['threads']}, in us: {told}"
        if "torch LSTM" in times:
            plain, layer = (
                times["torch LSTM"] / times[f"fastnorm {net}"] for net in ("LSTM", "LayerNorm-LSTM")
            )
            text += f"; torch.nn.LSTMCell / LSTM here {plain:.1f}, LayerNorm-LSTM {layer:.1f} (wanted: 3)"
        sentences.append(f"{text}.")
    return sentences
