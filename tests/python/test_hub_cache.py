"""Models by the name of their repository, in a cache that huggingface_hub itself filled, from a server in this test."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
from cli_support import ROOT, needs_binary, refused, stuffed

pytestmark = needs_binary
MODEL = ROOT / "tests" / "models" / "mamba2-short"
TEXT = ROOT / "tests" / "models" / "text" / "romans.txt"
NAME, COMMIT, OLDER = "tiny-lab/mamba2-short.v1", "0123456789abcdef0123456789abcdef01234567", "f" * 40
REVISIONS = {"main": COMMIT, "v0.1": OLDER, "refs/pr/1": COMMIT}
FILES = ("config.json", "model.safetensors", "stuffed_tokenizer.json")

DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
name, revision, *files = sys.argv[1:]
for file in files:
    try:
        hf_hub_download(name, file, revision=revision)
    except EntryNotFoundError:
        pass
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as serves single files: /OWNER/NAME/resolve/REVISION/FILE."""

    def answer(self, with_body):
        revision, _, file = self.path.partition("/resolve/")[2].rpartition("/")
        commit = REVISIONS.get(revision.replace("%2F", "/"), revision)
        path = MODEL / file
        self.send_response(200 if path.is_file() else 404)
        self.send_header("X-Repo-Commit", commit)
        body = path.read_bytes() if path.is_file() else b""
        if not path.is_file():
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def do_HEAD(self):  # noqa: N802
        self.answer(with_body=False)

    def do_GET(self):  # noqa: N802
        self.answer(with_body=True)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """HF_HOME with NAME at its commit and, without weights, at the older one."""
    home = tmp_path_factory.mktemp("hf")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    environment.pop("HF_HUB_CACHE", None)
    for revision, files in (("main", (*FILES, "tokenizer.json")), ("v0.1", FILES[:1]), ("refs/pr/1", FILES[:1])):
        subprocess.run([sys.executable, "-c", DOWNLOAD, NAME, revision, *files], env=environment, check=True)
    server.shutdown()
    return home


@pytest.fixture
def cached(home, monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(home))
    return home


def evaluate(out, *arguments, **options):
    text = ("--text", TEXT, "--length", 256, "--bucket", 64, "--device", "cpu", "-o", out)
    return stuffed("ppl-by-length", *arguments, *text, **options)


def header_and_records(out):
    header, *records = (json.loads(line) for line in out.read_text().splitlines())
    return header, records


def test_a_name_gives_what_its_path_gives_and_the_commit_is_recorded(cached, tmp_path):
    assert evaluate(tmp_path / "path.jsonl", "--model", MODEL).returncode == 0
    _, expected = header_and_records(tmp_path / "path.jsonl")
    for i, given in enumerate((NAME, f"{NAME}@{COMMIT[:8]}")):
        done = evaluate(tmp_path / f"{i}.jsonl", "--model", given)
        assert done.returncode == 0, done.stderr
        header, records = header_and_records(tmp_path / f"{i}.jsonl")
        assert records == expected
        assert header["provenance"]["model"] == NAME
        assert header["provenance"]["model_commit"] == COMMIT


def test_an_existing_path_wins(cached, tmp_path):
    place = tmp_path / NAME
    shutil.copytree(MODEL, place)
    shown = json.loads(stuffed("inspect", NAME, "--json", cwd=tmp_path).stdout)
    assert str(cached) not in json.dumps(shown)
    assert NAME in json.dumps(shown)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("tiny-lab/other", ["no repository of this name", "hf download tiny-lab/other"]),
        (f"{NAME}@v9", ["no such revision", f"hf download {NAME} --revision v9"]),
        (f"{NAME}@v0.1", ["no weights", f"hf download {NAME} model.safetensors --revision {OLDER}"]),
    ],
)
def test_what_is_not_there_says_where_it_was_looked_for_and_how_to_bring_it(given, parts, cached):
    where = [] if "no weights" in parts else [cached / "hub"]
    refused(stuffed("inspect", given), 3, *parts, *where)


def test_a_tokenizer_is_found_by_name_and_an_absent_file_is_explained(cached, tmp_path):
    done = stuffed("tokenize", "--tokenizer", NAME, stdin=None, input="abc")
    assert json.loads(done.stdout) == [97, 98, 99]
    refused(stuffed("tokenize", "--tokenizer", f"{NAME}@v0.1", input="abc"), 3, "no tokenizer", "hf download")
    snapshot = cached / "hub" / f"models--{NAME.replace('/', '--')}" / "snapshots" / COMMIT
    hidden = snapshot / "stuffed_tokenizer.json"
    hidden.rename(tmp_path / "kept")
    try:
        refused(
            stuffed("tokenize", "--tokenizer", NAME, input="abc"), 3, f"the repository {NAME} has no tokenizer.json"
        )
    finally:
        (tmp_path / "kept").rename(hidden)


def test_a_sweep_takes_names(cached, tmp_path):
    (tmp_path / "s.toml").write_text(
        f'[defaults]\ndevice = "cpu"\ntext = ["{TEXT}"]\n[[runs]]\ncommand = "ppl-by-length"\nlength = 64\n'
        f'[runs.grid]\nmodel = ["{NAME}"]\n'
    )
    done = stuffed("sweep", tmp_path / "s.toml", "-o", tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
