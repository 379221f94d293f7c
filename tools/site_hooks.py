"""What mkdocs is told beyond mkdocs.yml: pages that come from elsewhere, links that leave ``docs``, formulas as MathML.

mkdocs calls the functions ``on_…`` by their names. The pages under "Reference" are made from the code (``tools/reference.py``),
those under "Measured" are the READMEs of ``studies`` and ``benchmarks``: neither can fall behind.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from tools import reference

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ("tutorial.ipynb",)
_LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
_FUNCTION = re.compile(r"(<mi>(?:log|ln|exp)</mi>)(?=<m(?:i|n|sub|sup|subsup|row|frac|sqrt|munder|munderover)\b)")
_ROLE = re.compile(r":(?:class|meth|attr|func|mod):(?=<code>)")


def adopted(root: Path = ROOT) -> dict[str, str]:
    """Pages from outside of ``docs``: path in the repository -> path in the site."""
    studies = sorted(path.parent.name for path in root.glob("studies/*/README.md"))
    return {
        **{f"studies/{name}/README.md": f"measured/{name}.md" for name in studies},
        **{f"docs/{name}": f"{Path(name).stem}.md" for name in NOTEBOOKS},
        "benchmarks/README.md": "measured/benchmarks.md",
        "benchmarks/speedrun/README.md": "measured/speedrun.md",
        "CONTRIBUTING.md": "contributing.md",
        "CHANGELOG.md": "changelog.md",
    }


def on_config(config: Any) -> Any:
    """Put the studies into the navigation, under "Measured"."""
    section = next(entry["Measured"] for entry in config.nav if "Measured" in entry)
    section[:0] = [uri for source, uri in adopted().items() if source.startswith("studies/")]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that do not lie in ``docs``."""
    made: dict[str, str | bytes] = {
        uri: (ROOT / path).read_text("utf-8") for path, uri in adopted().items() if path.endswith(".md")
    }
    made |= {f"reference/{name}.md": text for name, text in reference.pages().items()}
    for name in NOTEBOOKS:
        files.remove(files.src_uris[name])
        made |= notebook_page(ROOT / "docs" / name)
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def notebook_page(path: Path) -> dict[str, str | bytes]:
    """A notebook as a Markdown page of the same name, and its pictures: path in the site -> content."""
    notebook = nbformat.read(path, as_version=4)
    body, resources = MarkdownExporter(exclude_input_prompt=True).from_notebook_node(
        notebook, resources={"output_files_dir": path.stem, "unique_key": path.stem}
    )
    pictures = {f"{path.stem}/{Path(name).name}": content for name, content in resources["outputs"].items()}
    return {f"{path.stem}.md": body, **pictures}


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links between pages hold in the site as they do in the repository."""
    uri = page.file.src_uri
    source = {there: here for here, there in adopted().items()}.get(uri, f"docs/{uri}")
    return relinked(markdown, source, uri, adopted())


def relinked(markdown: str, source: str, uri: str, pages: Mapping[str, str], root: Path = ROOT) -> str:
    """Relative links of the page ``source`` (a path in the repository), as they must be at ``uri`` in the site.

    What is in the repository and not in the site becomes plain text. A link that leads nowhere stays: mkdocs refuses it.
    """

    def there(match: re.Match[str]) -> str:
        if ":" in match["target"]:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["target"]))
        if target.startswith("docs/") or target in pages:
            place = pages.get(target, target.removeprefix("docs/"))
            return f"[{match['text']}]({posixpath.relpath(place, posixpath.dirname(uri) or '.')}{match['anchor'] or ''})"
        return match["text"] if (root / target).exists() else match[0]

    return _LINK.sub(there, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Turn formulas into MathML, which browsers render by themselves."""
    return _ROLE.sub("", _FORMULA.sub(lambda match: mathml(match, page.file.src_uri), html))


def mathml(match: re.Match[str], place: str) -> str:
    """One formula.

    Raises:
        PluginError: names the page and the formula that cannot be converted; the build stops.
    """
    latex, block = html.unescape(match["latex"]), match["tag"] == "div"
    try:
        found = convert(latex, display="block" if block else "inline")
    except Exception as error:
        raise PluginError(f"{place}: this formula cannot be converted ({type(error).__name__} {error}): {latex}") from error
    if "\\" in found:
        raise PluginError(f"{place}: the converter left a command as it was: {latex}")
    found = _FUNCTION.sub(r'\1<mspace width="0.17em"/>', found)  # as TeX has it between a function's name and its argument
    return f'<div class="formula">{found}</div>' if block else found
