"""The quick start in Chinese says README's commands, and no others."""

import re

from places import ROOT


def commands(page):
    """Each command of a page's bash blocks and each `make` target it names, without remarks, continued lines in one."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    blocks += [f"{inline}\n" for inline in re.findall(r"`(make [a-z-]+)`", text)]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return {" ".join(re.sub(r"\s#.*", "", line).split()) for line in lines if line.strip()}


def test_the_chinese_quick_start_has_only_commands_of_the_readme():
    chinese, english = commands("README.zh-CN.md"), commands("README.md")
    assert chinese <= english, f"not in README.md: {chinese - english}"
    assert {"make demo", "make test"} <= chinese


def test_its_links_lead_somewhere():
    text = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and all((ROOT / link).exists() for link in links)
