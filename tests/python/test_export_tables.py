"""`stuffed export --format csv|lm-eval`: every number of a journal, where spreadsheets and leaderboards look for it."""

import csv
import json
import math

import pytest
from cli_support import GOLDEN, ROOT, needs_binary, refused, stuffed

pytestmark = needs_binary
SAMPLES = sorted((GOLDEN / "results").glob("*.v1.jsonl"))
RESULTS = GOLDEN / "results"


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def exported(form, journal, folder, *more):
    done = stuffed("export", "--format", form, journal, "-o", folder, *more)
    assert done.returncode == 0, done.stderr
    return done


def leaves(value, field="", index=""):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{field}.{name}" if field else name, index)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, field, f"{index}.{i}" if index else str(i))
    else:
        yield field, index, value


def text_of(value):
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def same(text, value):
    if isinstance(value, float):
        return float(text) == value
    return text == text_of(value)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_tables_hold_every_value_of_every_schema(sample, tmp_path):
    exported("csv", sample, tmp_path / "out")
    header, *records = [line for line in lines_of(sample) if "end" not in line]
    rows, values = rows_of(tmp_path / "out" / "records.csv"), rows_of(tmp_path / "out" / "values.csv")
    assert [row["key"] for row in rows] == [record["key"] for record in records]
    found = {(row["key"], row["field"], row["index"]): row["value"] for row in values}
    elements = 0
    for row, record in zip(rows, records, strict=True):
        for field, index, value in leaves(record):
            elements += index != ""
            assert same(found[record["key"], field, index] if index else row[field], value), (record["key"], field)
    assert len(values) == elements
    run = {row["field"]: row["value"] for row in rows_of(tmp_path / "out" / "run.csv")}
    for field, index, value in leaves(header):
        assert same(run[f"{field}.{index}" if index else field], value), field


def test_text_that_would_break_a_table_comes_back_whole(tmp_path):
    lines = lines_of(RESULTS / "passkey.v1.jsonl")
    lines[1]["prediction"] = 'a,"b"\r\nc é'
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    exported("csv", tmp_path / "a.jsonl", tmp_path / "out")
    assert rows_of(tmp_path / "out" / "records.csv")[0]["prediction"] == lines[1]["prediction"]


# What lm-evaluation-harness writes at the top of results.json, and in its "config".
KEYS = """results groups group_subtasks configs versions n-shot higher_is_better n-samples config git_hash date
pretty_env_info transformers_version lm_eval_version upper_git_hash task_hashes model_source model_name
model_name_sanitized system_instruction system_instruction_sha fewshot_as_multiturn chat_template chat_template_sha
start_time end_time total_evaluation_time_seconds""".split()
CONFIG = """model model_args model_dtype model_revision model_sha batch_size batch_sizes device use_cache limit
bootstrap_iters gen_kwargs random_seed numpy_seed torch_seed fewshot_seed""".split()


def results_of(path):
    results = json.loads(path.read_text())
    assert sorted(results) == sorted(KEYS) and sorted(results["config"]) == sorted(CONFIG)
    for group, tasks in results["group_subtasks"].items():
        assert group in results["groups"] and results["results"][group] == results["groups"][group]
        for task in tasks:
            for part in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
                assert task in results[part], (part, task)
            metrics = {name.split(",")[0] for name in results["results"][task] if "," in name}
            assert metrics == {name for m in results["higher_is_better"][task] for name in (m, m + "_stderr")}
    return results


def test_losses_are_under_the_names_of_lm_eval(tmp_path):
    texts = [word for text in sorted((ROOT / "tests/models/text").glob("*.txt"))[:2] for word in ("--text", text)]
    run = ["--model", ROOT / "tests/models/mamba2-short", *texts, "--length", 96, "--bucket", 64]
    out = tmp_path / "a.jsonl"
    assert stuffed("ppl-by-length", *run, "-o", out).returncode == 0
    exported("lm-eval", out, tmp_path / "out")
    results = results_of(tmp_path / "out" / "results.json")
    documents = [line for line in lines_of(out) if line.get("key", "").startswith("document=")]
    summary = next(line for line in lines_of(out) if line.get("key") == "summary")
    assert results["group_subtasks"] == {"ppl_by_length": ["ppl_by_length_64", "ppl_by_length_128"]}
    for bucket, task in enumerate(results["group_subtasks"]["ppl_by_length"]):
        metrics = results["results"][task]
        assert metrics["token_perplexity,none"] == pytest.approx(summary["perplexity"][bucket], rel=1e-12)
        assert metrics["bits_per_byte,none"] == pytest.approx(summary["bits_per_byte"][bucket], rel=1e-12)
        assert math.log2(metrics["byte_perplexity,none"]) == pytest.approx(metrics["bits_per_byte,none"], rel=1e-12)
        assert results["n-samples"][task] == {"original": 2, "effective": 2}
    nll = sum(sum(document["nll_sum_nats"]) for document in documents)
    assert results["groups"]["ppl_by_length"]["token_perplexity,none"] == pytest.approx(math.exp(nll / 192), rel=1e-12)
    assert results["model_name"] == str(run[1]) and results["model_name_sanitized"] == str(run[1]).replace("/", "__")
    assert results["config"]["model_args"] == f"pretrained={run[1]},dtype=f32" and results["date"] > 1.7e9
    # Half of it is refused, unless asked for.
    lines = out.read_text().splitlines(keepends=True)
    (tmp_path / "half.jsonl").write_text("".join(lines[:2]) + lines[2][:30])
    for form in ("csv", "lm-eval"):
        refused(stuffed("export", "--format", form, tmp_path / "half.jsonl", "-o", tmp_path / form), 3, "--partial")
        assert not (tmp_path / form).exists()
        done = exported(form, tmp_path / "half.jsonl", tmp_path / form, "--partial")
        assert "is not finished" in done.stderr
    assert results_of(tmp_path / "lm-eval" / "results.json")["n-samples"]["ppl_by_length_64"]["effective"] == 1
    assert len(rows_of(tmp_path / "csv" / "records.csv")) == 1


def test_accuracies_are_under_the_names_of_lm_eval(tmp_path):
    sample = RESULTS / "passkey.v1.jsonl"
    exported("lm-eval", sample, tmp_path / "out")
    results = results_of(tmp_path / "out" / "results.json")
    for line in lines_of(sample):
        if line.get("key", "").startswith("summary/len="):
            task = results["results"][f"passkey_{line['length_tokens']}"]
            accuracy, n = line["accuracy"], line["trials"]
            assert task["acc,none"] == accuracy and task["exact_match,none"] == line["exact_accuracy"]
            assert task["acc_stderr,none"] == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / (n - 1)))


def test_each_cell_of_a_sweep_has_its_own_results(tmp_path):
    exported("lm-eval", ROOT / "configs/ci/expected.jsonl", tmp_path / "out")
    results = results_of(tmp_path / "out" / "loss-mamba1-hf" / "results.json")
    assert results["model_name"] == "tests/golden/mamba1-hf"
    assert len(results["group_subtasks"]["ppl_by_length"]) == 8
    assert "passkey" in results_of(tmp_path / "out" / "passkey" / "results.json")["groups"]
    assert not (tmp_path / "out" / "states-rwkv6-pth").exists()
    refused(stuffed("export", "--format", "lm-eval", RESULTS / "bench.v1.jsonl", "-o", tmp_path / "b"), 3, "csv")


@pytest.mark.parametrize("form", ["csv", "lm-eval", "paper"])
def test_a_folder_that_holds_something_is_left_alone(form, tmp_path):
    sample = RESULTS / "passkey.v1.jsonl"
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    refused(stuffed("export", "--format", form, sample, "-o", out), 7, out, "--overwrite")
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    exported(form, sample, out, "--overwrite")
    assert (out / "mine.txt").read_text() == "mine" and len(list(out.iterdir())) > 1
    refused(stuffed("export", "--format", form, sample, "-o", out / "mine.txt"), 7, "mine.txt")
