"""Write the table of metrics into docs/operating.md, from the code: python scripts/metrics_table.py."""

from pathlib import Path

from onnxserve_server.telemetry.catalogue import table

BEGIN, END = "<!-- metrics -->", "<!-- /metrics -->"


def main() -> None:
    """Replace what stands between the marks."""
    path = Path(__file__).parent.parent / "docs/operating.md"
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
