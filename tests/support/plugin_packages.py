"""Write packages of plug-ins into a folder on `sys.path`, as an installation does."""

from __future__ import annotations

from pathlib import Path


def install_package(site: Path, package: str, source: str, *, version: str = "1.0", entries: str = "") -> None:
    """Write a package with its metadata into a folder of installed packages."""
    (site / package).mkdir(parents=True, exist_ok=True)
    (site / package / "__init__.py").write_text(source)
    info = site / f"{package}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "top_level.txt").write_text(package)
    (info / "RECORD").write_text("")
    (info / "entry_points.txt").write_text(entries)
