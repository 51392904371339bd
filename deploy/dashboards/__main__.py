"""`python -m deploy.dashboards [--check]`: Grafana's dashboards and alerts, into deploy/grafana/."""

import sys

from deploy.dashboards.grafana import generate


def main() -> int:
    files = generate()
    if "--check" not in sys.argv:
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path.name for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if stale:
        print(f"out of date: {', '.join(stale)}: run `make dashboards`", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
