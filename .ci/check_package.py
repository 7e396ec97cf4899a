"""What a built wheel and sdist must hold, and what not: `check_package.py dist/*`."""

import re
import sys
import tarfile
import zipfile

WANTED = {
    "whl": ("jaxbias/py.typed", "jaxbias/__init__.pyi", "jaxbias/app/report/style.css", "METADATA", "licenses/LICENSE"),
    "gz": ("jaxbias/py.typed", "tests/test_readme.py", "docs/layers.md", "README.md", "CHANGELOG.md", "LICENSE"),
}
UNWANTED = {"whl": ("tests/", "benchmarks/", "docs/", ".ci/", "__pycache__"), "gz": ("__pycache__", ".venv/")}


def problems(path: str) -> list[str]:
    """What is wrong with the names in an archive, and with the description that a package index shows."""
    kind = path.rpartition(".")[2]
    if kind == "whl":
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            metadata = wheel.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    else:
        with tarfile.open(path) as sdist:
            names = [name.partition("/")[2] for name in sdist.getnames()]
            members = (member for member in sdist.getmembers() if member.name.endswith("/PKG-INFO"))
            metadata = sdist.extractfile(next(members)).read().decode()  # type: ignore[union-attr]
    lacks = [f"lacks {wanted}" for wanted in WANTED[kind] if not any(name.endswith(wanted) for name in names)]
    holds = [f"holds {name}" for name in names for part in UNWANTED[kind] if f"/{part}" in f"/{name}"]
    relative = re.findall(r"\]\(([\w./-]+)\)", metadata)
    links = [f"its description links to {target}, which a package index does not have" for target in relative]
    return lacks + holds[:5] + links


def main(paths: list[str]) -> int:
    if sorted(path.rpartition(".")[2] for path in paths) != ["gz", "whl"]:
        print(f"check_package.py: one wheel and one sdist are wanted, got {paths}.")
        return 2
    wrong = [f"{path}: {problem}" for path in paths for problem in problems(path)]
    print("\n".join(wrong or [f"{path}: contents as wanted" for path in paths]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
