"""`stuffed report`: a page that a browser draws without an error; the journals' numbers and strings as they are."""

import html.parser
import json
import math
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import stuffed_results
from cli_support import GOLDEN, needs_binary, refused, stuffed
from safetensors.numpy import save_file
from test_unfinished import without_summary, write

pytestmark = needs_binary
RESULTS = GOLDEN / "results"
BROWSER = shutil.which("chromium-headless-shell") or shutil.which("chromium")
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">$$x$$"
WIDTHS = [360, 800, 1400]


def journals(folder: pathlib.Path) -> list[pathlib.Path]:
    """A result of every schema, one that is not finished, and one whose document, model and device have a name."""
    for path in RESULTS.glob("*.v1.*"):
        shutil.copy(path, folder)
    lines = (RESULTS / "ppl_by_length.v1.jsonl").read_text().splitlines(keepends=True)
    (folder / "stopped.jsonl").write_text("".join(lines[:3]) + lines[3][:40])
    header, first, *rest = lines
    header, first = json.loads(header), json.loads(first)
    first["name"] = header["provenance"]["device_name"] = header["config"]["model"]["family"] = EVIL
    header["provenance"]["command_line"].append(EVIL)
    (folder / "evil.jsonl").write_text("".join([json.dumps(header) + "\n", json.dumps(first) + "\n", *rest]))
    return sorted(folder.glob("*.jsonl"))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("report")
    done = stuffed("report", folder / "evil.jsonl", *journals(folder), "--label", EVIL, "-o", folder / "page.html")
    assert done.returncode == 0, done.stderr
    return folder / "page.html"


class Tables(html.parser.HTMLParser):
    """The tables of a page by caption: rows of cells, each its text and the numbers it holds in full."""

    def __init__(self, text: str):
        super().__init__()
        self.tables, self.rows, self.here = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append(("", []))
        elif tag == "data":
            self.rows[-1][-1][1].append(float(dict(attributes)["value"]))
        if tag in ("td", "th", "caption"):
            self.here = tag

    def handle_endtag(self, tag):
        self.here = None if tag == self.here else self.here

    def handle_data(self, data):
        if self.here == "caption":
            self.tables[data] = self.rows
        elif self.here:
            text, numbers = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, numbers)


@pytest.fixture(scope="module")
def tables(page) -> dict:
    return Tables(page.read_text()).tables


def rows_of(tables: dict, *parts: str) -> list:
    """Rows beneath the head of the one table whose caption holds these parts."""
    found = [rows for caption, rows in tables.items() if all(part in caption for part in parts)]
    assert len(found) == 1, f"{len(found)} tables of {parts}: {list(tables)}"
    return found[0][1:]


def student(documents: int) -> float:
    """The 97.5 % quantile of Student's t over so many documents."""
    return {2: 12.706204736432095, 3: 4.302652729911275}[documents]


def numbers(row: list) -> list:
    return [value for _, values in row for value in values]


def test_losses_are_those_of_the_journal_by_all_three_definitions(tables):
    run = stuffed_results.read(RESULTS / "ppl_by_length.v1.jsonl")
    summary, width = run.summary, run.summary["bucket_tokens"]
    sums = np.array([run.records[f"document={i}"]["nll_sum_nats"] for i in range(3)])
    rows = rows_of(tables, "ppl_by_length.v1: loss", "at positions")
    assert [row[0][1] for row in rows][-1] == [512] and len(rows) > 6
    for position, bucket, prefix, last, perplexity in rows:
        b = int(position[1][0]) // width - 1
        assert bucket[1][0] == pytest.approx(summary["mean_nll_nats"][b], rel=1e-12)
        assert prefix[1][0] == pytest.approx(summary["running_mean_nll_nats"][b], rel=1e-12)
        first = max(0, b + 1 - math.ceil(1024 / width))
        assert last[1][0] == pytest.approx(sums[:, first : b + 1].sum() / (3 * width * (b + 1 - first)), rel=1e-12)
        assert perplexity[1] == [pytest.approx(summary["perplexity"][b], rel=1e-12)]
        assert bucket[0].startswith(f"{bucket[1][0]:.4g}")
        half = student(3) * summary["standard_error_nats"][b]
        assert bucket[1][1:] == [pytest.approx(bucket[1][0] + sign * half, rel=1e-9) for sign in (-1, 1)]


def test_the_last_tokens_can_be_chosen(page, tmp_path):
    done = stuffed("report", RESULTS / "ppl_by_length.v1.jsonl", "--last-tokens", 40, "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    run = stuffed_results.read(RESULTS / "ppl_by_length.v1.jsonl")
    rows = rows_of(Tables((tmp_path / "page.html").read_text()).tables, "at positions")
    assert rows[-1][3][1][0] == pytest.approx(np.mean(run.summary["mean_nll_nats"][-3:]), rel=1e-12)


def test_passkeys_are_those_of_the_journal(tables):
    run = stuffed_results.read(RESULTS / "passkey.v1.jsonl")
    fields = ("accuracy", "low", "high")
    for row in rows_of(tables, "Accuracy by length"):
        summary = run.records[f"summary/len={int(row[0][1][0])}"]
        assert row[1][1] == pytest.approx([summary[field] for field in fields], rel=1e-12)
        assert row[1][0].endswith(f"{summary['correct']} of {summary['trials']}")
    for row in rows_of(tables, "passkey.v1: accuracy by length and depth"):
        cells = run.records[f"summary/len={int(row[0][1][0])}"]["depths"]
        for cell, shown in zip(cells, row[1:], strict=True):
            assert shown[1] == pytest.approx([cell[field] for field in fields], rel=1e-12)
    for row in rows_of(tables, "passkey.v1: accuracy for needles within"):
        at = run.summary["lengths_tokens"].index(int(row[0][1][0]))
        for curve, shown in zip(run.summary["last_tokens"], row[1:], strict=True):
            point = curve["points"][at]
            expected = [] if point is None else [point[field] for field in fields]
            assert shown[1] == pytest.approx(expected, rel=1e-12)


def test_retrieval_is_that_of_the_journal(tables):
    run = stuffed_results.read(RESULTS / "retrieval.v1.jsonl")
    fields = ("accuracy", "low", "high")
    rows = rows_of(tables, "Mean score by length")
    assert len(rows) == 2
    for row in rows:
        summary = run.records[f"summary/len={int(row[0][1][0])}"]
        assert row[1][1] == pytest.approx([summary[field] for field in fields], rel=1e-12)
    for row in rows_of(tables, "retrieval.v1: accuracy by length and depth"):
        cells = run.records[f"summary/len={int(row[0][1][0])}"]["depths"]
        for found, cell in zip(row[1:], cells, strict=True):
            assert found[1] == pytest.approx([cell[field] for field in fields], rel=1e-12)


def test_states_retention_and_training_are_those_of_the_journals(tables):
    states = stuffed_results.read(RESULTS / "state_stats.v1.jsonl").summary
    heads = [numbers(row) for row in rows_of(tables, "state_stats.v1: heads whose variance")]
    names = ("layer", "head", "variance_within", "variance_past", "ratio", "largest_at_tokens")
    assert heads == [[head[name] for name in names] for head in states["exploding"]]
    retention = stuffed_results.read(RESULTS / "retention.v1.jsonl").summary
    documents = retention["documents"]
    for point in retention["points"]:
        rows = rows_of(tables, f"retention.v1: EffRem (total variation, 0 to 1) after {point['read_tokens']} tokens")
        assert [row[0][1][0] for row in rows] == point["suffix_tokens"]
        assert [row[1][1][0] for row in rows] == point["effrem"]
        for (_, found), error in zip((row[1] for row in rows), point["effrem_standard_error"], strict=True):
            half = student(documents) * error
            assert found[1:] == pytest.approx([max(0, found[0] - half), min(1, found[0] + half)], rel=1e-9, abs=1e-12)
    train = stuffed_results.read(RESULTS / "train.v1.jsonl").records
    for row in rows_of(tables, "train.v1: training loss"):
        record = train[f"step={int(row[0][1][0])}"]
        assert numbers(row[1:]) == [record[n] for n in ("tokens", "loss_nats", "learning_rate", "gradient_norm")]
    for source, step, within, past in rows_of(tables, "train.v1: validation loss"):
        record = train[f"validation/step={int(step[1][0])}/{source[0]}"]
        assert [*within[1], *past[1]] == [record["within_length_nats"], record["beyond_length_nats"]]


def test_fits_are_those_of_the_journal(tables):
    run = stuffed_results.read(RESULTS / "fit.v1.jsonl")
    found, paper = run.summary["coefficients"], run.summary["paper"]
    *rows, last = rows_of(tables, "fit.v1: T = a S + b")
    for name, value, printed, difference in rows:
        expected = [found[name[0]][field] for field in ("value", "low", "high")]
        assert value[1] == pytest.approx(expected, rel=1e-12)
        assert printed[1] == [paper["coefficients"][name[0]]] and difference[1] == [paper["difference"][name[0]]]
    assert last[1][1] == [run.summary["r_squared"]]
    points = [record for key, record in run.records.items() if key.startswith("point/")]
    signs = {"no": "", "at most": "\u2264 ", "at least": "\u2265 "}
    shown = [(row[0][1][0], row[2][0]) for row in rows_of(tables, "fit.v1: the points")]
    assert shown == [(p["state_elements"], f"{signs[p['censored']]}{p['tokens']}") for p in points]


def test_cells_of_a_sweep_verdicts_and_times_are_there(tables):
    cells = [row[0][0] for row in rows_of(tables, "What is on this page")]
    assert {"64", "96"} <= set(cells) and "sweep.v1" not in cells
    verify = stuffed_results.read(RESULTS / "verify.v1.jsonl").records
    assert [row[0][0] for row in rows_of(tables, "verify.v1")] == list(verify)
    bench = stuffed_results.read(RESULTS / "bench.v1.jsonl").records
    for row in rows_of(tables, "bench.v1: times"):
        assert row[2][1] == [bench[row[0][0]]["tokens_per_s"]]


def test_what_is_unfinished_is_drawn_as_far_as_it_is_and_marked(page, tables):
    states = {row[0][0]: row[1][0] for row in rows_of(tables, "What is on this page")}
    assert states["stopped"] == "unfinished" and states["passkey.v1"] == "finished"
    records = stuffed_results.read(RESULTS / "ppl_by_length.v1.jsonl").records
    expected = sum(records[f"document={i}"]["nll_sum_nats"][0] for i in range(2)) / 32
    rows = rows_of(tables, "stopped (unfinished): loss")
    assert rows[0][1][1][0] == pytest.approx(expected, rel=1e-12)
    assert "Unfinished, drawn as far as they go: stopped." in page.read_text()


def test_arrays_of_runs_that_go_on_are_drawn_from_their_parts(tmp_path):
    paths = [write(tmp_path, task, without_summary(task)) for task in ("state_stats", "retention")]
    (tmp_path / "begun.jsonl").write_bytes((RESULTS / "train.v1.jsonl").read_bytes().splitlines(keepends=True)[0])
    done = stuffed("report", *paths, tmp_path / "begun.jsonl", "-o", tmp_path / "page.html")
    assert done.returncode == 0 and "no map" not in done.stderr, done.stderr
    assert "begun (unfinished): no step is recorded yet" in done.stderr
    block = re.search(r'id="figures">(.*?)</script>', (tmp_path / "page.html").read_text(), re.DOTALL).group(1)
    states, retention = json.loads(block)
    assert states["kind"] == "states" and states["map_label"] == "variance of the state at the end"
    assert [panel["kind"] for panel in retention["panels"]] == ["lines", "map", "lines"]
    last = stuffed_results.read(paths[1]).records["document=1"]["points"][0]
    rows = rows_of(Tables((tmp_path / "page.html").read_text()).tables, "retention.v1 (unfinished): EffRem", "after 24")
    assert [row[1][1] for row in rows] == [[value] for value in last["effrem"]]


def test_strings_of_journals_are_text(page, tables):
    text = page.read_text()
    assert text.count("<script") == text.count("</script>") == 4 and "<img" not in text
    assert rows_of(tables, "documents", "</script>")[0][1][0] == EVIL
    block = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL).group(1)
    assert "<" not in block and EVIL in json.dumps(json.loads(block)).replace('\\"', '"')


DRIVER = """<!doctype html><body><script>
const widths = %s, found = [];
const ink = (canvas) => canvas.width > 0 &&
  canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((byte) => byte !== 0);
const drawn = (node) => node.tagName === "CANVAS" ? ink(node)
  : [...(node.shadowRoot?.children ?? []), ...node.children].some(drawn);
const frames = widths.map((width) => {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; width: ${width}px; height: 2000px`;
  frame.src = "page.html";
  document.body.append(frame);
  return frame;
});
const plotsOf = (page) => [...page.querySelectorAll(".canvas")];
const blank = (page) => plotsOf(page).filter((plot) => !drawn(plot)).map((plot) => plot.ariaLabel);
const until = (holds) => new Promise((done) => {
  const wait = setInterval(() => holds() && (clearInterval(wait), done()), 50);
});
const isDrawn = (frame) => frame.contentDocument?.documentElement?.dataset.drawn === "yes";

function look(page) {
  const root = page.documentElement, plots = plotsOf(page);
  found.push({width: root.clientWidth, needs: root.scrollWidth, title: page.title, scripts: page.scripts.length,
              plots: plots.length, blank: blank(page),
              named: plots.every((plot) => plot.role === "img" && plot.ariaLabel),
              buttons: [...page.querySelectorAll(".legend button")].map((button) => button.textContent)});
}

/// Uses every kind of control, as a hand or a keyboard does.
async function use(page) {
  const choose = (name, i) => {
    const list = page.querySelector(`select[aria-label="${name}"]`);
    list.selectedIndex = i;
    list.dispatchEvent(new Event("change"));
  };
  const labels = () => plotsOf(page).map((plot) => plot.ariaLabel);
  choose("shown as", 1);
  await until(() => labels().filter((label) => label.includes("perplexity")).length === 3);
  page.querySelector(".legend button").click();
  choose("layer", 0);
  await until(() => [...page.querySelectorAll("h4")].some((title) => title.textContent.startsWith("layer 0, head")));
  choose("shown", 1);
  page.documentElement.dataset.drawn = "no";
  page.getElementById("scheme").click();
  await until(() => page.documentElement.dataset.drawn === "yes");
  return {scheme: page.documentElement.dataset.scheme, blank: blank(page),
          pressed: page.querySelector(".legend button").ariaPressed, perplexity: labels()[0].includes("perplexity")};
}

(async () => {
  await until(() => frames.every(isDrawn));
  for (const frame of frames) look(frame.contentDocument);
  found.push(await use(frames[1].contentDocument));
  document.body.replaceChildren(JSON.stringify(found));
})();
</script>"""


def browse(page: pathlib.Path, driver: pathlib.Path) -> tuple[list, list[str]]:
    """What the driver found, and what the console said; no host has an address."""
    options = ["--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files", "--dump-dom",
               "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=120000",
               "--window-size=1600,2000", f"--user-data-dir={page.parent / 'browser'}"]  # fmt: skip
    command = [BROWSER, *options, driver.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    body = html.unescape(re.search(r"<body>(.*?)</body>", done.stdout, re.DOTALL).group(1))
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "setting log level" not in line]
    assert body.startswith("["), f"the page was not drawn: {said} {body[:200]}"
    return json.loads(body), said


@pytest.mark.skipif(BROWSER is None, reason="no chromium-headless-shell and no chromium")
def test_a_browser_draws_it_at_every_width_and_its_controls_work_without_a_word(page):
    driver = page.parent / "driver.html"
    driver.write_text(DRIVER % WIDTHS)
    found, said = browse(page, driver)
    assert said == []
    *pages, used = found
    assert used == {"scheme": "dark", "blank": [], "pressed": "false", "perplexity": True}
    for at, width in zip(pages, WIDTHS, strict=True):
        assert at["width"] == width and at["needs"] <= width, at
        assert at["plots"] > 10 and at["blank"] == [] and at["named"], at
        assert at["title"] == "Results" and at["scripts"] == 4 and EVIL in at["buttons"], at


def many_runs(folder: pathlib.Path) -> list[pathlib.Path]:
    """Ten runs as large as a lab's: losses of 2K buckets, states of 48 layers of 64 heads, a wide passkey."""
    rng = np.random.default_rng(0)
    for i in range(4):
        run = [json.loads(line) for line in (RESULTS / "ppl_by_length.v1.jsonl").read_text().splitlines()]
        for record in run[1:4]:
            record.update(nll_sum_nats=(16 * rng.gamma(4.0, 1.0, 65536)).tolist(), targets=16 * 65536)
        (folder / f"loss{i}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in run[:4]))
    for i in range(4):
        run = [json.loads(line) for line in (RESULTS / "state_stats.v1.jsonl").read_text().splitlines()]
        run[0]["config"]["arrays"] = f"states{i}.safetensors"
        (folder / f"states{i}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in run))
        arrays = {name: rng.lognormal(size=(1, 64, 48, 64)) for name in ("state.variance", "state.rank", "alpha.mean")}
        save_file(arrays | {"variance_ratio": rng.lognormal(size=(48, 64))}, folder / f"states{i}.safetensors")
    for i in range(2):
        lines = (RESULTS / "passkey.v1.jsonl").read_text().splitlines()
        header, trial = json.loads(lines[0]), json.loads(lines[1])
        header["config"].update(lengths_tokens=[1024 * (n + 1) for n in range(128)], depths=20, trials=2)
        (folder / f"passkey{i}.jsonl").write_text(
            json.dumps(header) + "\n" + "".join(json.dumps(trial | place(n, d, t)) + "\n" for n in range(128)
                                               for d in range(20) for t in range(2)))  # fmt: skip
    return sorted(folder.glob("*.jsonl"))


def place(n: int, depth: int, trial: int) -> dict:
    length, at = 1024 * (n + 1), round(depth / 20 * 10 * n)
    return {"key": f"len={length}/depth={depth}/trial={trial}", "length_tokens": length, "depth_index": depth,
            "trial": trial, "blocks": 10 * n + 1, "position_blocks": at, "prompt_tokens": length - 50,
            "needle_token": 93 + 90 * at, "correct": (n + depth) % 3 == 0}  # fmt: skip


def test_ten_runs_fit_into_four_megabytes(tmp_path):
    done = stuffed("report", *many_runs(tmp_path), "-o", tmp_path / "page.html")
    assert done.returncode == 0 and "10 results (6 unfinished)" in done.stdout, done.stdout + done.stderr
    size = (tmp_path / "page.html").stat().st_size
    assert size <= 4_000_000, size


def test_a_folder_stands_for_its_journals_and_a_page_may_be_made_anew(tmp_path):
    for name in ("verify", "bench"):
        shutil.copy(RESULTS / f"{name}.v1.jsonl", tmp_path)
    (tmp_path / "other.jsonl").write_text('{"no": "journal"}\n')
    for _ in range(2):
        done = stuffed("report", tmp_path, "-o", tmp_path / "page.html")
        assert done.returncode == 0 and ": 2 results, " in done.stdout, done.stderr


def test_the_same_results_give_the_same_page(page, tmp_path):
    done = stuffed("report", page.parent / "evil.jsonl", *sorted(page.parent.glob("*.jsonl")), "--label", EVIL,
                   "-o", tmp_path / "page.html")  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "page.html").read_bytes() == page.read_bytes()


def test_training_runs_in_a_folder_are_found(tmp_path):
    run = tmp_path / "runs" / "short"
    run.mkdir(parents=True)
    shutil.copy(RESULTS / "train.v1.jsonl", run / "train.jsonl")
    shutil.copy(RESULTS / "verify.v1.jsonl", tmp_path / "runs")
    done = stuffed("report", tmp_path / "runs", "-o", tmp_path / "page.html")
    assert done.returncode == 0 and ": 2 results, " in done.stdout
    done = stuffed("report", run, "-o", tmp_path / "one.html")
    assert done.returncode == 0 and ": 1 result, " in done.stdout


def test_what_is_no_result_is_refused(tmp_path):
    sample = RESULTS / "verify.v1.jsonl"
    (tmp_path / "text").write_text("hello\n")
    newer = sample.read_text().replace('"version":1', '"version":2', 1)
    (tmp_path / "newer.jsonl").write_text(newer)
    page = tmp_path / "page.html"
    refused(stuffed("report", tmp_path / "text", "-o", page), 3, "not a stuffed journal")
    refused(stuffed("report", tmp_path / "newer.jsonl", "-o", page), 3, "version 2", "use a newer stuffed")
    refused(stuffed("report", tmp_path / "none", "-o", page), 3, "none")
    (tmp_path / "empty").mkdir()
    refused(stuffed("report", tmp_path / "empty", "-o", page), 3, "holds no journal")
    assert not page.exists()


def test_nothing_but_a_report_is_replaced(tmp_path):
    sample = shutil.copy(RESULTS / "verify.v1.jsonl", tmp_path)
    before = pathlib.Path(sample).read_bytes()
    refused(stuffed("report", sample, "-o", sample), 2)
    refused(stuffed("report", sample, "-o", "-"), 2, "a file is needed")
    (tmp_path / "notes.html").write_text("<p>mine</p>")
    refused(stuffed("report", sample, "-o", tmp_path / "notes.html"), 7, "is not a report")
    assert pathlib.Path(sample).read_bytes() == before and (tmp_path / "notes.html").read_text() == "<p>mine</p>"
    assert stuffed("report", sample, "--overwrite", "-o", tmp_path / "notes.html").returncode == 0


def test_a_record_that_no_command_wrote_is_named(tmp_path):
    text = (RESULTS / "retention.v1.jsonl").read_text().replace('"effrem":[', '"effrem":["x",')
    (tmp_path / "edited.jsonl").write_text(text)
    refused(stuffed("report", tmp_path / "edited.jsonl", "-o", tmp_path / "page.html"), 3, "edited.jsonl")
    assert not os.path.exists(tmp_path / "page.html")
