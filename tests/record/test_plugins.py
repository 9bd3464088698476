"""Plug-ins of installed packages are found by entry point or reference, and identified by their source."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eatnas_db.domain.macro import PRESETS, Task
from eatnas_db.domain.rng import KeyedRng
from eatnas_db.domain.space import Space
from eatnas_db.errors import PluginError
from eatnas_db.plugins import (
    DATASETS,
    SOURCE_DIGESTS,
    SPACES,
    Plugin,
    PluginIdentity,
    digest_source,
    find_function,
    find_plugin,
    list_plugins,
)
from eatnas_db.spaces import describe_conflict, find_space, list_plugin_spaces, read_space, store_space
from eatnas_db.time_limits import VARIABLE, call_within_limit
from support.plugin_packages import install_package


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """Return a folder of installed packages on `sys.path`."""
    sys.path.insert(0, str(tmp_path))
    try:
        yield tmp_path
    finally:
        sys.path.remove(str(tmp_path))
        SOURCE_DIGESTS.clear()
        for name in [name for name in sys.modules if name.startswith("plugin_sample")]:
            del sys.modules[name]


def test_entry_point_is_found_and_loaded(site: Path) -> None:
    install_package(
        site, "plugin_sample_a", "value = 3\n", entries="[eatnas_db.datasets]\ntexts = plugin_sample_a:value\n"
    )

    plugin = find_plugin(DATASETS, "texts")

    assert plugin.load() == 3
    assert plugin.identity().version == "1.0"
    assert "texts" in list_plugins(DATASETS)


def test_unknown_name_lists_installed_plugins(site: Path) -> None:
    install_package(
        site, "plugin_sample_b", "value = 3\n", entries="[eatnas_db.datasets]\ntexts = plugin_sample_b:value\n"
    )

    with pytest.raises(PluginError, match="did you mean texts"):
        find_plugin(DATASETS, "text")


def test_two_packages_with_one_name_are_refused(site: Path) -> None:
    for package in ("plugin_sample_c", "plugin_sample_d"):
        install_package(site, package, "value = 3\n", entries=f"[eatnas_db.datasets]\ntexts = {package}:value\n")

    for use in (Plugin.load, Plugin.identity):
        with pytest.raises(PluginError, match=r"texts: plugin_sample_c:value and plugin_sample_d:value; uninstall one"):
            use(find_plugin(DATASETS, "texts"))


def test_name_of_two_packages_stops_no_other_plugin(site: Path) -> None:
    for package, other in (("plugin_sample_n", ""), ("plugin_sample_o", "images = plugin_sample_o:value\n")):
        entries = f"[eatnas_db.datasets]\ntexts = {package}:value\n{other}"
        install_package(site, package, "value = 3\n", entries=entries)

    assert find_plugin(DATASETS, "images").load() == 3


@pytest.mark.parametrize("reference", ["", "train", "a b:c", "plugin_sample_e:", ":train", "plugin_sample_e:a.1"])
def test_malformed_reference_is_refused(reference: str) -> None:
    with pytest.raises(PluginError, match="module:name"):
        find_function(reference)


def test_missing_package_is_named() -> None:
    with pytest.raises(PluginError, match="plugin_sample_missing is not installed"):
        find_function("plugin_sample_missing.train:train")


@pytest.mark.parametrize(
    "source",
    ["raise RuntimeError('a\\nb')", "raise SystemExit(3)", "import plugin_sample_missing", "other = 1", "def ("],
)
def test_plugin_that_cannot_be_loaded_is_reported_in_one_line(site: Path, source: str) -> None:
    install_package(site, "plugin_sample_f", source)

    with pytest.raises(PluginError) as error:
        Plugin("x", "plugin_sample_f:value").load()

    assert "\n" not in str(error.value)


def test_changed_source_is_reported_with_both_versions(site: Path) -> None:
    install_package(site, "plugin_sample_g", "value = 3\n")
    stored = find_function("plugin_sample_g:value").identity().to_json()
    identity = PluginIdentity.from_json(stored)
    identity.require_installed()

    install_package(site, "plugin_sample_g", "value = 4\n")
    SOURCE_DIGESTS.clear()

    with pytest.raises(PluginError, match="plugin_sample_g:value has changed"):
        identity.require_installed()


def test_package_installed_after_the_start_is_found(tmp_path: Path) -> None:
    site = tmp_path / "later"
    sys.path.insert(0, str(site))
    try:
        with pytest.raises(PluginError, match="is not installed"):
            find_function("plugin_sample_later:value")
        site.mkdir()
        install_package(site, "plugin_sample_later", "value = 3\n")
        assert find_function("plugin_sample_later:value").load() == 3
    finally:
        sys.path.remove(str(site))
        sys.modules.pop("plugin_sample_later", None)
        SOURCE_DIGESTS.clear()


def test_former_source_is_accepted_again_until_its_package_is_imported(site: Path) -> None:
    install_package(site, "plugin_sample_h", "value = 3\n")
    plugin = find_function("plugin_sample_h:value")
    identity = plugin.identity()
    install_package(site, "plugin_sample_h", "value = 4\n")
    with pytest.raises(PluginError, match="has changed"):
        identity.require_installed()

    install_package(site, "plugin_sample_h", "value = 3\n")
    identity.require_installed()
    plugin.load()
    install_package(site, "plugin_sample_h", "value = 4\n")

    identity.require_installed()  # this process still has the old source
    SOURCE_DIGESTS.clear()
    latest = plugin.identity()
    SOURCE_DIGESTS["plugin_sample_h"] = identity.source_digest
    with pytest.raises(PluginError, match="eatnas-db daemon restart"):
        latest.require_installed()


def test_broken_links_do_not_count_as_source(site: Path) -> None:
    install_package(site, "plugin_sample_i", "value = 3\n")
    before = digest_source("plugin_sample_i")

    (site / "plugin_sample_i" / ".#train.py").symlink_to("user@host.123")

    assert digest_source("plugin_sample_i") == before


MACRO = """
from eatnas_db.domain.macro import Macro
from eatnas_db.domain.operators import BUILT_IN_OPERATORS, Operator
class Own(Macro):
    def measure(self, architecture, task):
        return super().measure(architecture, task)
SIZES = (8, 1, (1, 2), (16, 24), 64, 0.5)
"""


def test_space_of_a_subclass_keeps_its_class(site: Path) -> None:
    source = f"{MACRO}SPACE = Own('own', *SIZES)\n"
    install_package(site, "plugin_sample_j", source, entries="[eatnas_db.spaces]\nown = plugin_sample_j:SPACE\n")

    space = find_space("own")

    assert read_space(store_space(space)) is space


def test_other_operator_of_a_known_name_is_refused(site: Path) -> None:
    operator = "Operator('sep', BUILT_IN_OPERATORS[0].count, 'x:y')"
    source = f"{MACRO}SPACE = Macro('other', *SIZES, operators=({operator}, *BUILT_IN_OPERATORS[1:]))\n"
    install_package(site, "plugin_sample_k", source, entries="[eatnas_db.spaces]\nother = plugin_sample_k:SPACE\n")

    with pytest.raises(PluginError, match="operator sep that is not the one"):
        store_space(find_space("other"))


def test_identity_covers_the_package_of_the_layers(site: Path) -> None:
    operator = "GHOST = Operator('ghost', BUILT_IN_OPERATORS[0].count, 'plugin_sample_m:layer')\n"
    source = f"{MACRO}{operator}SPACE = Macro('ghosts', *SIZES, operators=(GHOST, *BUILT_IN_OPERATORS))\n"
    operators = "[eatnas_db.operators]\nghost = plugin_sample_l:GHOST\n"
    spaces = "[eatnas_db.spaces]\nghosts = plugin_sample_l:SPACE\n"
    install_package(site, "plugin_sample_l", source, entries=operators + spaces)
    install_package(site, "plugin_sample_m", "layer = None\n")

    stored = store_space(find_space("ghosts"))

    assert [identity["reference"] for identity in stored["plugins"]] == [
        "plugin_sample_l:SPACE",
        "plugin_sample_l:GHOST",
        "plugin_sample_m:layer",
    ]


@pytest.mark.parametrize("blocks", ["1 / 0", "({'op': ()},)", "None"])
def test_space_without_usable_blocks_is_reported_in_one_line(site: Path, blocks: str) -> None:
    source = f"""
from eatnas_db.domain.space_definition import SpaceDefinition
class Broken(SpaceDefinition):
    name, network, measure = "broken", "x:y", None
    @property
    def blocks(self):
        return {blocks}
SPACE = Broken()
"""
    install_package(site, "plugin_sample_p", source, entries="[eatnas_db.spaces]\nbroken = plugin_sample_p:SPACE\n")

    with pytest.raises(
        PluginError, match=r"broken cannot make an architecture .*; fix the package that defines the space"
    ):
        Space(find_space("broken"), Task(8, 1, 10)).require_feasible()


def test_cost_that_never_returns_is_reported_in_one_line(site: Path) -> None:
    source = f"{MACRO}import time\nOwn.measure = lambda *_: time.sleep(10**6)\nSPACE = Own('stuck', *SIZES)\n"
    install_package(site, "plugin_sample_q", source, entries="[eatnas_db.spaces]\nstuck = plugin_sample_q:SPACE\n")
    program = (
        "from eatnas_db.domain.macro import Task; from eatnas_db.domain.space import Space\n"
        "from eatnas_db.errors import PluginError; from eatnas_db.spaces import find_space\n"
        "try: Space(find_space('stuck'), Task(8, 1, 10)).require_feasible()\n"
        "except PluginError as error: print(error)\n"
    )
    environment = {**os.environ, VARIABLE: "0.2", "PYTHONPATH": str(site)}

    printed = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)

    assert printed.startswith("space stuck cannot count ")
    assert printed.endswith("(TimeoutError: it did not return within 0.2 s); fix the package that defines the space\n")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("parse_block = lambda self, position, text: Macro.parse_block(self, 0, 'sep_k3_d1_w1.0')", "reads the text "),
        ("from_code = lambda self, code: self.parse('/'.join(['sep_k3_d1_w1.0'] * 2))", "reads the code "),
        ("to_code = lambda self, architecture: {1j}", r"cannot read .* \(TypeError: "),
    ],
)
def test_space_that_misreads_its_own_text_is_reported(site: Path, method: str, message: str) -> None:
    source = f"{MACRO}Own.{method}\nSPACE = Own('other', *SIZES)\n"
    install_package(site, "plugin_sample_t", source, entries="[eatnas_db.spaces]\nother = plugin_sample_t:SPACE\n")
    space = Space(find_space("other"), Task(8, 1, 10))

    with pytest.raises(PluginError, match=f"space other {message}.*; fix the package that defines the space"):
        space.sample(KeyedRng(0, "sample", 1), lambda _: False)


def test_import_that_never_ends_is_waited_for_once(site: Path) -> None:
    source = "import time\ntry:\n    time.sleep(10**6)\nexcept Exception:\n    pass\n"
    install_package(site, "plugin_sample_r", source, entries="[eatnas_db.spaces]\nslow = plugin_sample_r:SPACE\n")
    program = (
        "from eatnas_db.errors import PluginError; from eatnas_db.spaces import find_space\n"
        "for _ in range(2):\n"
        "    try: find_space('slow')\n"
        "    except PluginError as error: print(error)\n"
    )
    environment = {**os.environ, VARIABLE: "0.1", "PYTHONPATH": str(site)}

    first, second = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True).splitlines()

    assert first == second
    assert "slow (plugin_sample_r:SPACE) cannot be imported: it did not return within 0.3 s" in first


def compute_forever() -> None:
    while True:
        pass


def wait_in_c() -> None:
    while True:
        time.sleep(0.5)


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("function", [compute_forever, wait_in_c])
def test_call_is_stopped_in_every_thread(function: Callable[[], None], in_thread: bool) -> None:
    with ThreadPoolExecutor() as pool:
        call = pool.submit(call_within_limit, function, seconds=0.1) if in_thread else None
        with pytest.raises(TimeoutError, match=r"did not return within 0\.1 s"):
            call.result() if call else call_within_limit(function, seconds=0.1)
    # Wait for the thread. Otherwise, on Python 3.11, a later test that sets a profiler would spin until the thread gets
    # its exception.
    for thread in threading.enumerate():
        if thread.name == "plug-in":
            thread.join(10)
            assert not thread.is_alive()

    assert call_within_limit(divmod, 7, 2, seconds=60.0) == (3, 1)


def test_name_of_a_built_in_space_stops_no_other_space(site: Path) -> None:
    source = f"{MACRO}SPACE = Own('eatnas-tiny', *SIZES)\nOTHER = Own('other', *SIZES)\n"
    entries = "[eatnas_db.spaces]\neatnas-tiny = plugin_sample_s:SPACE\nother = plugin_sample_s:OTHER\n"
    install_package(site, "plugin_sample_s", source, entries=entries)

    assert find_space("eatnas-tiny") is PRESETS["eatnas-tiny"]
    assert find_space("other").name == "other"
    assert set(list_plugin_spaces()) >= {"other"}
    assert "eatnas-tiny" not in list_plugin_spaces()
    assert "has the name of a built-in space" in describe_conflict(list_plugins(SPACES)["eatnas-tiny"])
