"""Write a repository's address into pyproject.toml, for the packages of a release: project_urls.py https://HOST/OWNER/NAME.

The address is not in the sources: whoever releases, from whichever repository, sets its own.
"""

import argparse
from pathlib import Path
from urllib.parse import urlsplit

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
TABLE = "[project.urls]"


def urls(repository: str) -> dict[str, str]:
    """Return the pages of a repository by the labels that package indexes know."""
    return {
        "Source": repository,
        "Documentation": f"{repository}/tree/HEAD/docs",
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
    }


def main() -> None:
    """Put the table before the first of [project]'s sub-tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", help="its address, such as https://git.example/owner/name")
    repository = parser.parse_args().repository.rstrip("/")
    if urlsplit(repository).scheme != "https":
        parser.error(f"{repository!r}: expected a URL such as https://git.example/owner/name")
    text = PYPROJECT.read_text()
    if TABLE in text:
        parser.error(f"{PYPROJECT.name} already has {TABLE}")
    lines = [TABLE, *(f'{label} = "{url}"' for label, url in urls(repository).items()), "", ""]
    PYPROJECT.write_text(text.replace("[project.scripts]", "\n".join(lines) + "[project.scripts]", 1))


if __name__ == "__main__":
    main()
