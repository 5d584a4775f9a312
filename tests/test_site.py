"""The site's build stops at what a reader would stumble over."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

PluginError = pytest.importorskip("mkdocs.exceptions").PluginError
Files = pytest.importorskip("mkdocs.structure.files").Files

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def hooks(tmp_path, monkeypatch):
    """The site's hooks, looking at a small repository of their own."""
    spec = importlib.util.spec_from_file_location("site_hooks", REPOSITORY / "docs" / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    monkeypatch.setattr(module, "DOCS", tmp_path / "docs")
    for folder in ("docs/guides", "superpoint_jax", "results"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs" / "other.md").touch()
    (tmp_path / "results" / "figure.png").touch()
    (tmp_path / "CARD.md").write_text("# Card\n\n[picture](results/figure.png)\n")
    (tmp_path / "README.md").write_text("# A\n\n## Fast\n[raw](results/figure.png)\n### Part\nmore\n\n## Next\nno\n")
    return module


@pytest.fixture
def page(hooks):
    """From the Markdown of docs/guides/page.md to what mkdocs is given, and the files that come with it."""
    files = Files([])
    config = SimpleNamespace(site_dir="site", use_directory_urls=True, docs_dir="docs", plugins=None)

    def convert(markdown):
        source = SimpleNamespace(file=SimpleNamespace(src_uri="guides/page.md"))
        return hooks.on_page_markdown(markdown, source, config, files), {file.src_uri for file in files}

    return convert


def test_links_within_the_docs_and_to_the_web_stay(page):
    text = "[a](../other.md#part) [b](https://example.org/x) [c](#here)"
    assert page(text) == (text, set())


def test_a_file_outside_the_docs_comes_with_the_site(page, monkeypatch):
    monkeypatch.setattr("mkdocs.structure.files.File.generated", lambda config, uri, **_: SimpleNamespace(src_uri=uri))
    monkeypatch.setattr(Files, "append", lambda self, file: self._src_uris.__setitem__(file.src_uri, file))
    text, files = page("![a](../../results/figure.png)")
    assert text == "![a](../repository/results/figure.png)"
    assert files == {"repository/results/figure.png"}


def test_a_dead_link_stops_the_build(page):
    with pytest.raises(PluginError, match=r"dead link in guides: \.\./missing\.md"):
        page("[a](../missing.md)")
    with pytest.raises(PluginError, match="a link to a folder"):
        page("[a](../../results)")


def test_code_is_left_alone(page):
    text = "`[a](../missing.md)`\n```text\n[a](../missing.md)\n```\n"
    assert page(text) == (text, set())


def test_a_section_of_another_file_is_included_with_its_links(page, monkeypatch):
    monkeypatch.setattr("mkdocs.structure.files.File.generated", lambda config, uri, **_: SimpleNamespace(src_uri=uri))
    monkeypatch.setattr(Files, "append", lambda self, file: None)
    text, _ = page("before\n<!-- include ../../README.md ## Fast -->\nafter")
    assert text == "before\n[raw](../repository/results/figure.png)\n### Part\nmore\n\n\nafter"
    text, _ = page("<!-- include ../../CARD.md -->")
    assert text == "## Card\n\n[picture](../repository/results/figure.png)\n"
    with pytest.raises(PluginError, match="no section '## Slow'"):
        page("<!-- include ../../README.md ## Slow -->")


def test_a_public_name_without_a_docstring_stops_the_build(hooks, tmp_path):
    module = tmp_path / "superpoint_jax" / "a.py"
    module.write_text('def f():\n    """Does."""\n\ndef _g(): ...\n\nclass _C:\n    def h(self): ...\n')
    hooks.on_pre_build(None)
    module.write_text(module.read_text() + '\nclass D:\n    """Is."""\n    def bare(self): ...\n')
    with pytest.raises(PluginError, match=r"superpoint_jax/a\.py: bare"):
        hooks.on_pre_build(None)
