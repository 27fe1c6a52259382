"""Retrieval tasks end to end, against a generator and a scorer of their own: 50 samples of each."""

import json
import re

import pytest
import stuffed_results
from cli_support import GOLDEN, ROOT, needs_binary, refused, stuffed

pytestmark = needs_binary
MASK = (1 << 64) - 1
WEYL = 0x9E3779B97F4A7C15
MODEL = ["--model", GOLDEN / "mamba2-hf", "--device", "cpu", "--seed", 5]
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
LENGTHS, DEPTHS, TRIALS = [2048, 3000], 5, 5  # 50 samples


class Draws:
    """SplitMix64 of a seed and a key (include/stuffed/core/rng.h), written anew."""

    def __init__(self, seed: int, key: str):
        self.state = self.mixed((seed + WEYL) & MASK)
        for byte in key.encode():
            self.state = self.mixed((self.state + WEYL + byte) & MASK)

    @staticmethod
    def mixed(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    def next(self) -> int:
        self.state = (self.state + WEYL) & MASK
        return self.mixed(self.state)

    def below(self, bound: int) -> int:
        while (draw := self.next()) < (1 << 64) % bound:
            pass
        return draw % bound

    def uniform(self) -> float:
        return (self.next() >> 11) * 2.0**-53

    def different(self, count: int, draw) -> list:
        drawn = []
        while len(drawn) < count:
            one = draw()
            if one not in drawn:
                drawn.append(one)
        return drawn

    def order(self, count: int) -> list[int]:
        items = list(range(count))
        for i in range(count, 1, -1):
            j = self.below(i)
            items[i - 1], items[j] = items[j], items[i - 1]
        return items


def word_lists() -> tuple[list[str], list[str]]:
    source = (ROOT / "src" / "io" / "recall" / "needle_text.cpp").read_text()
    lists = [re.findall(r'"(\w+)"', part) for part in re.findall(r"string_view k\w+\[\] = \{(.*?)\};", source, re.S)]
    assert [len(words) for words in lists] == [64, 64] and all(len(set(words)) == 64 for words in lists)
    return lists


def places(trial: dict, units: int, grid: str) -> tuple[int, str, float]:
    """Where the first needle goes among units + 1 places, what its draws are named, and the depth asked for."""
    if grid == "per-length":
        number = trial["depth_index"] * TRIALS + trial["trial"]
        depth = (number + 0.5) / (DEPTHS * TRIALS)
        return int(depth * units), f"length={trial['length_tokens']}/{number}", depth
    step = 1
    while 2 * step * DEPTHS <= units + 1:
        step *= 2
    depth = (trial["depth_index"] + 0.5) / DEPTHS
    nearest = int(depth * units / step + 0.5) * step
    return nearest, f"position={nearest}/{trial['repetition']}", depth


def listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + ", and " + items[-1]


def needle_prompt(task: str, trial: dict, grid: str, sentences: list[str] | None):
    """The prompt of a trial, its expected strings and the bytes before the first needle."""
    adjectives, nouns = word_lists()
    units = trial["units"]
    first, name, depth = places(trial, units, grid)
    draws = Draws(5, "niah/" + name)
    count = 1 if task == "niah-single" else 4

    def word() -> str:
        adjective = adjectives[draws.below(64)]
        return f"{adjective}-{nouns[draws.below(64)]}"

    def uuid() -> str:
        high, low = draws.next() & ~0xF000 | 0x4000, draws.next() >> 2 | 1 << 63
        digits = f"{high:016x}{low:016x}"
        return "-".join([digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]])

    def number() -> str:
        return str(1000000 + draws.below(9000000))

    kind = "uuids" if task == "niah-multiquery" else "numbers"
    keys = draws.different(1 if task == "niah-multivalue" else count, number if kind == "uuids" else word)
    values = draws.different(count, uuid if kind == "uuids" else number)
    spread = 1 << ((units + 1).bit_length() - 1) if grid == "shared" else units + 1
    at = [first] + [int(draws.uniform() * spread) for _ in range(count - 1)]
    needles = [f"One of the special magic {kind} for {keys[i % len(keys)]} is: {values[i]}." for i in range(count)]
    one = task in ("niah-single", "niah-multikey")
    template = (
        "Some special magic {v} are hidden within the following text. Make sure to memorize it. I will quiz you about "
        "the {v} afterwards.\n{context}\nWhat are all the special magic {v} for {query} mentioned in the provided "
        "text? The special magic {v} for {query} mentioned in the provided text are"
    )
    if one:
        template = template.replace("Some", "A").replace("are all", "is").replace(" are", " is")
    asked, expected = (keys[:1], values[:1]) if one else (keys, values)
    order = sorted(range(count), key=lambda i: at[i])
    haystack = [FILLER.rstrip("\n")] * units if sentences is None else sentences[:units]
    for i in reversed(order):
        haystack.insert(at[i], needles[i])
    context = ("\n" if sentences is None else " ").join(haystack)
    text = template.format(v=kind[:-1] if one else kind, context=context, query=listed(asked))
    return text, expected, text.index(needles[0]), (first / units, depth, asked)


def run(task: str, out, *more: object, lengths=LENGTHS) -> dict:
    size = ["--lengths", ",".join(map(str, lengths)), "--depths", DEPTHS, "--trials", TRIALS]
    done = stuffed("retrieval", "--task", task, *MODEL, *size, *more, "-o", out)
    assert done.returncode == 0, done.stderr
    return stuffed_results.read(out, "stuffed.retrieval")


def trials_of(results) -> list[dict]:
    return [record for record in results.records.values() if "trial" in record]


def check_scores(results) -> None:
    """RULER's: the share of the expected strings that are contained, whatever their case; and its means."""
    for trial in trials_of(results):
        said = trial["prediction"].lower()
        found = [answer.lower() in said for answer in trial["answers"]]
        assert trial["found"] == found and trial["score"] == sum(found) / len(found)
        assert trial["correct"] == all(found)
    check_means(results)


def check_means(results) -> None:
    trials = trials_of(results)
    for length in results.config["lengths_tokens"]:
        scores = [trial["score"] for trial in trials if trial["length_tokens"] == length]
        summary = results.records[f"summary/len={length}"]
        assert summary["trials"] == len(scores)
        assert summary["accuracy"] == pytest.approx(sum(scores) / len(scores))
        assert summary["low"] - 1e-9 <= summary["accuracy"] <= summary["high"] + 1e-9


@pytest.mark.parametrize(
    "task,grid,text",
    [
        ("niah-single", "shared", False),
        ("niah-multikey", "per-length", True),
        ("niah-multivalue", "shared", True),
        ("niah-multiquery", "shared", False),
    ],
)
def test_needles_are_those_of_another_generator(task, grid, text, tmp_path) -> None:
    words = (ROOT / "tests" / "models" / "text" / "romans.txt").read_text(errors="replace")
    (tmp_path / "text.txt").write_text(words)
    more = ["--text", tmp_path / "text.txt"] if text else []
    kinds = ["--keys", "numbers", "--values", "uuids"] if task == "niah-multiquery" else []
    options = ["--tokenizer", "bytes", "--grid", grid, "--max-new-tokens", (new := 40 if kinds else 16), *kinds, *more]
    results = run(task, tmp_path / "a.jsonl", *options)
    sentences = re.split(r"(?<=[.!?]) |(?<=[.!?][\"')\]]) ", " ".join(words.split())) if text else None
    trials = trials_of(results)
    assert len(trials) == 50
    for trial in trials:
        prompt, expected, needle, (real, depth, asked) = needle_prompt(task, trial, grid, sentences)
        assert trial["answers"] == expected and trial["query"] == asked
        assert trial["prompt_tokens"] == len(prompt.encode())
        spaces = 1 if text and real > 0 else 0  # the space before a sentence is its own
        assert trial["needle_token"] == trial["needle_tokens"][0] == len(prompt[:needle].encode()) - spaces
        assert (trial["real_depth"], trial["depth"]) == pytest.approx((real, depth))
        assert trial["total_tokens"] == trial["prompt_tokens"] + new <= trial["length_tokens"]
        assert trial["answer_tokens"] == len(" " + listed(expected))
    check_scores(results)


@pytest.mark.parametrize("task,grid", [("mqar", "per-length"), ("mqar-forget", "shared")])
def test_recall_is_that_of_another_generator(task, grid, tmp_path) -> None:
    options = ["--pairs", 6, "--queries", 4, "--gap", 3, "--vocabulary", 64, "--grid", grid]
    results = run(task, tmp_path / "a.jsonl", *options, lengths=[64, 200])
    updates = 3 if task == "mqar-forget" else 0
    trials = trials_of(results)
    assert len(trials) == 50
    for trial in trials:
        filler = trial["length_tokens"] - 2 * (6 + updates) - 2 * 4 - 3 * 3
        before, name, _ = places(trial, filler, grid)
        draws = Draws(5, "mqar/" + name)
        keys = draws.different(6, lambda d=draws: 1 + d.below(31))
        values = draws.different(6 + updates, lambda d=draws: 32 + d.below(32))
        held = dict(zip(keys, values, strict=False))
        for i, pair in enumerate(draws.order(6)[:updates]):
            held[keys[pair]] = values[6 + i]
        queries = [keys[pair] for pair in draws.order(6)[:4]]
        assert trial["query"] == queries
        assert trial["answers"] == [held[key] for key in queries]
        assert trial["needle_token"] == before and trial["real_depth"] == pytest.approx(before / filler)
        assert trial["total_tokens"] == trial["length_tokens"]
        assert trial["found"] == [a == p for a, p in zip(trial["answers"], trial["prediction"], strict=True)]
        assert trial["score"] == sum(trial["found"]) / 4
    check_means(results)


def samples(form: str) -> list[dict]:
    made = []
    for i in range(50):
        context, length = f"Item {i} is in the {['kitchen', 'garden'][i % 2]}. " * 5, [512, 1024][i % 2]
        made.append(
            {
                "ruler": {"input": context, "outputs": ["Kitchen", str(i)], "length": length, "index": i},
                "babilong": {"input": context, "question": "Where?", "target": "kitchen,garden" if i % 5 else "n,e"},
                "plain": {"prompt": context + "It is in", "answers": "garden", "length": length},
            }[form]
        )
        if form == "ruler" and i % 3:
            made[-1]["answer_prefix"] = " The items are"
    return made


@pytest.mark.parametrize("form", ["ruler", "babilong", "plain"])
def test_questions_of_a_file_are_asked_whole(form, tmp_path) -> None:
    file, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    lines = samples(form)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = ["--tokenizer", "bytes", "--jsonl", file, "--format", form, "--max-new-tokens", 40]
    options += ["--lengths", "256"] if form == "babilong" else []
    done = stuffed("retrieval", "--task", "jsonl", *MODEL, *options, "-o", out)
    assert done.returncode == 0, done.stderr
    results = stuffed_results.read(out, "stuffed.retrieval")
    counts: dict[int, int] = {}
    over = 0
    for line in lines:
        prompt = {
            "ruler": lambda s: s["input"] + s.get("answer_prefix", ""),
            "babilong": lambda s: f"{s['input']}\n\nQuestion: {s['question']}\nAnswer:",
            "plain": lambda s: s["prompt"],
        }[form](line)
        length = line.get("length", 256)
        number = counts[length] = counts.get(length, -1) + 1
        record = results.records[f"len={length}/depth=0/trial={number}"]
        assert record["prompt_tokens"] == len(prompt.encode())
        target = line.get("outputs", line.get("answers", line.get("target")))
        if form == "babilong":
            target = target.split(",") if len(target) > 3 else target
        assert record["answers"] == ([target] if isinstance(target, str) else target)
        over += record["total_tokens"] > length
    check_scores(results)
    assert (f"{over} of 50 prompts" in done.stderr) == (over > 0)
    assert sum(results.config["samples"]) == 50


def test_what_a_file_lacks_is_named_by_line(tmp_path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"input": "a", "outputs": ["b"], "length": 9}) + "\n\n" + json.dumps({"input": "a"}))
    options = ["--tokenizer", "bytes", "--task", "jsonl", "--jsonl", file, "--dry-run"]
    refused(stuffed("retrieval", *options, "--format", "ruler"), 3, "line 3", "outputs")
    refused(stuffed("retrieval", *options, "--format", "babilong"), 3, "line 1", "target")
    refused(stuffed("retrieval", *options), 2, "--format")


def test_what_does_not_fit_is_refused() -> None:
    niah = ["--task", "niah-single", "--tokenizer", "bytes", "--dry-run"]
    refused(stuffed("retrieval", *niah), 2, "--lengths")
    refused(stuffed("retrieval", *niah, "--lengths", 256), 2, "no room")
    refused(stuffed("retrieval", "--task", "mqar", "--lengths", 16, "--dry-run"), 2, "no room")
    refused(stuffed("retrieval", *niah, "--lengths", "2K", "--pairs", 2), 2, "--pairs", "niah-single")
    refused(stuffed("retrieval", "--task", "mqar", "--lengths", 64, "--updates", 2, "--dry-run"), 2, "--updates")
    refused(stuffed("retrieval", "--task", "mqar", *MODEL, "--lengths", 64, "-o", "-"), 2, "--vocabulary")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run, and the options it was made with."""
    out = tmp_path_factory.mktemp("retrieval") / "whole.jsonl"
    options = ["--pairs", 4, "--vocabulary", 64, "--train-len", 64]
    return run("mqar", out, *options, lengths=[64, 128, 192]).path, options


def test_parts_merge_to_the_whole_and_compare_to_nothing(whole, tmp_path) -> None:
    path, options = whole
    for i in range(2):
        run("mqar", tmp_path / f"{i}.jsonl", *options, "--part", f"{i}/2", lengths=[64, 128, 192])
    merged = tmp_path / "merged.jsonl"
    assert stuffed("merge", tmp_path / "0.jsonl", tmp_path / "1.jsonl", "-o", merged).returncode == 0
    ours, theirs = stuffed_results.read(merged).records, stuffed_results.read(path).records
    assert ours.keys() == theirs.keys()
    for key, record in ours.items():  # other prompts fed side by side round in other places
        for field in ("answer_nll_nats", "mean_answer_nll_nats"):
            assert record.pop(field, 0) == pytest.approx(theirs[key].pop(field, 0))
        assert record == theirs[key]
    done = stuffed("compare", path, merged, "--fail-above", "retrieval_accuracy_drop=0", "--format", "json")
    assert done.returncode == 0, done.stderr


def test_a_run_that_was_cut_goes_on_to_the_same_records(whole, tmp_path) -> None:
    path, options = whole
    lines = path.read_text().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(lines[:20]) + lines[20][:30])
    run("mqar", cut, *options, lengths=[64, 128, 192])
    assert cut.read_text().splitlines()[:-1] == path.read_text().splitlines()[:-1]


def test_tokens_fed_and_asked_are_told_as_planned(whole) -> None:
    path, options = whole
    size = ["--lengths", "64,128,192", "--depths", DEPTHS, "--trials", TRIALS]
    plan = json.loads(stuffed("retrieval", "--task", "mqar", *options, *size, "--dry-run").stdout)
    end = json.loads(path.read_text().splitlines()[-1])
    assert end["tokens_fed"] == plan["tokens_to_feed"] < end["tokens_asked"] == plan["tokens_asked"]
    # Four queries a prompt, of which the answer feeds three, and three true values.
    assert plan["tokens_asked"] == plan["prompt_tokens"] + 6 * plan["prompts"]


def test_results_are_exported_drawn_and_reported(whole, tmp_path) -> None:
    import plot_passkey
    import unfinished

    path, _ = whole
    assert stuffed("export", "--format", "lm-eval", path, "-o", tmp_path / "out").returncode == 0
    exported = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    results = stuffed_results.read(path)
    assert exported["mqar_128"]["acc,none"] == pytest.approx(results.records["summary/len=128"]["accuracy"])
    plot_passkey.draw_both(results, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10000
    done = stuffed("report", path, "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text()
    assert "Retrieval tasks" in page and "by length and depth" in page
    lines = path.read_text().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(line for line in lines if '"summary' not in line and '"end"' not in line))
    so_far = unfinished.so_far(stuffed_results.read(cut))
    for key in ("summary/len=64", "summary/len=192"):
        for cell, own in zip(so_far.records[key]["depths"], results.records[key]["depths"], strict=True):
            assert cell == {name: own[name] for name in cell}
    assert so_far.records["summary"]["last_tokens"] == results.records["summary"]["last_tokens"]
