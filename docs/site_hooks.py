"""Adapts the pages, which are written to be read on GitHub, to the site."""

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY: Final = "https://github.com/ingestq/ingestq/blob/main/"
OUTSIDE: Final = re.compile(r"(!?)(\[[^\]]*\])\((?:\.\./)+([^)#]+)(#[^)]*)?\)")
"""A link to a file that may not be under docs/."""
CODE_IN_TABLE: Final = re.compile(r"`[^`\n]*\\\|[^`\n]*`")
DIAGRAM: Final = '<pre class="mermaid">'
MERMAID: Final = "javascripts/mermaid.min.js"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the images that lie elsewhere in the repository."""
    pages = Path(config.docs_dir)
    for page in list(files.documentation_pages()):
        for image, _, path, _ in OUTSIDE.findall(page.content_string):
            if image and not files.get_file_from_path(path):
                source = pages.parent / path
                files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to files that the site does not have to the repository."""

    def target(link: re.Match[str]) -> str:
        image, text, path, anchor = link.groups()
        if image:
            return f"![{text[1:-1]}]({path})"
        folder = Path(config.docs_dir, page.file.src_uri).parent
        relative = link[0].partition("](")[2].rstrip(")").partition("#")[0]
        if (folder / relative).resolve().is_relative_to(Path(config.docs_dir).resolve()):
            return link[0]
        return f"{text}({REPOSITORY}{path}{anchor or ''})"

    # GitHub wants pipes of code in tables escaped, and Python-Markdown shows the backslash.
    unescaped = CODE_IN_TABLE.sub(lambda code: code[0].replace("\\|", "|"), markdown)
    return OUTSIDE.sub(target, unescaped)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Load the library for diagrams where there are some; the theme would get it elsewhere."""
    if DIAGRAM not in output:
        return output
    path = "../" * page.url.count("/") + MERMAID
    return output.replace("</head>", f'<script src="{path}"></script></head>')
