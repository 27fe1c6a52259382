"""Real text in many scripts from what Debian and Python put on a machine, for tests and benchmarks."""

import sys
import sysconfig
from pathlib import Path

PLACES = (
    ("/usr/share/doc/debian-handbook/html", "*/*.html"),  # 26 languages
    ("/usr/share/debian-reference", "*.html"),
    ("/usr/share/doc/linux-doc-6.1/html/translations", "**/*.html"),
    ("/usr/share/locale", "*/LC_MESSAGES/*.mo"),
    (sysconfig.get_path("stdlib"), "*.py"),
)


def real_text(size):
    """`size` bytes or a little less of UTF-8, files of all places and languages in turn."""
    by_folder = {}
    for place, pattern in PLACES:
        for path in sorted(Path(place).glob(pattern)):
            by_folder.setdefault(path.parent, []).append(path)
    queues, parts, total = [iter(files) for files in by_folder.values()], [], 0
    while queues and total < size:
        for queue in list(queues):
            path = next(queue, None)
            if path is None:
                queues.remove(queue)
                continue
            text = path.read_bytes()[:200_000].decode("utf-8", errors="ignore")
            parts.append(text)
            total += len(text.encode())
            if total >= size:
                break
    return "".join(parts).encode()[:size].decode("utf-8", errors="ignore")


if __name__ == "__main__":
    sys.stdout.write(real_text(int(sys.argv[1])))
