"""What `make docs` adds to MkDocs: files of the repository that pages link to, and their links.

On disk, `docs/api.md` links to `../examples/tiny.yaml` and `README.md` to `docs/api.md`. The site
has what lies in `docs/` at its root, and beside it every other file that a page links to or that
the navigation lists, under its path in the repository. MkDocs calls functions by their names.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = "docs/"
_LINK: Final = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside `docs/`, those that they link to included."""
    waiting = [path for path in _listed(config.nav) if not (ROOT / DOCS / path).exists()]
    for file in files.documentation_pages():
        waiting += _outside(DOCS + file.src_uri, file.content_string)
    while waiting:
        path = waiting.pop()
        if (ROOT / path).is_file() and files.get_file_from_path(path) is None:
            added = File.generated(config, path, abs_src_path=str(ROOT / path))
            files.append(added)
            if added.is_documentation_page():
                waiting += _outside(path, added.content_string)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Have links lead to where the site has their files."""
    source = page.file.src_uri
    path = DOCS + source if (ROOT / DOCS / source).exists() else source

    def moved(link: re.Match[str]) -> str:
        target = _target(path, link[2])
        if target is None:
            return link[0]
        here = PurePosixPath(source).parent
        return link[1] + os.path.relpath(target.removeprefix(DOCS), here) + link[3]

    return _LINK.sub(moved, markdown)


def _outside(path: str, text: str) -> Iterator[str]:
    """Yield the paths outside `docs/` that a page links to."""
    for link in _LINK.finditer(text):
        target = _target(path, link[2])
        if target is not None and not target.startswith(DOCS):
            yield target


def _target(path: str, link: str) -> str | None:
    """Return what a link of the file at `path` means, from the root; None: no file of ours."""
    target = os.path.normpath(PurePosixPath(path).parent / link)
    if "://" in link or not (ROOT / target).exists():
        return None
    return target + "/README.md" if (ROOT / target).is_dir() else target


def _listed(nav: Any) -> Iterator[str]:
    """Yield the paths that the navigation lists."""
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from _listed(each)
