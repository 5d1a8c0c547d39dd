"""A hook of mkdocs: notebooks become pages of their words, their code and the outputs that are kept in them."""

import base64
import json
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page, and its pictures, beside each notebook."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        stem = notebook.src_uri.removesuffix(".ipynb")
        text, pictures = page(json.loads(notebook.content_string), stem.rpartition("/")[2])
        files.append(File.generated(config, f"{stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"{stem.rpartition('/')[0]}/{name}", content=content))
    return files


def page(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """A notebook -> its page, and the pictures of it by name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source.replace(".ipynb)", ".md)"))
            if len(parts) == 1:
                parts.append(f"*This page is [a notebook]({stem}.ipynb), run as it stands.*")
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            parts.append(shown(output, pictures, f"{stem}-{len(pictures)}.png"))
    return "\n\n".join(parts) + "\n", pictures


def shown(output: dict[str, Any], pictures: dict[str, bytes], name: str) -> str:
    """An output in Markdown; a picture goes into `pictures` under `name`."""
    data = output.get("data", {})
    if "image/png" in data:
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        return f"![What the cell above draws]({name})"
    if "text/html" in data:
        return "".join(data["text/html"])
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    return "```{ .text .output }\n" + "".join(data.get("text/plain", output.get("text", ""))).rstrip() + "\n```"
