"""The folder store on a real disk, among real processes."""

import os
import pickle
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import (
    ImageNotFoundError,
    KeyFormatError,
    StoreConfigurationError,
    StoreUnavailableError,
)
from cluster.storage import FolderImageStore, FolderStoreOptions, StoredImage, build_store

KEY = "images/2026/01/09/img_01/0.png"
METADATA = {"seed": "7", "model": "造相"}


@pytest.fixture
def options(tmp_path: Path) -> FolderStoreOptions:
    return FolderStoreOptions(folder=tmp_path / "store", base_url="http://127.0.0.1:8000")


@pytest.fixture
def store(options: FolderStoreOptions) -> FolderImageStore:
    return FolderImageStore(options)


def put(store: FolderImageStore, content: bytes = b"picture", key: str = KEY) -> None:
    store.put(key, content, content_type="image/png", metadata=METADATA)


def list_visible(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths if path.name[0] != "."}


def test_a_file_is_read_back_with_its_facts(store: FolderImageStore) -> None:
    put(store)
    assert store.get(KEY) == StoredImage(b"picture", "image/png", METADATA)


def test_a_file_lies_under_its_key(store: FolderImageStore, options: FolderStoreOptions) -> None:
    put(store)
    assert (options.folder / KEY).read_bytes() == b"picture"


def test_a_second_put_replaces_the_first(store: FolderImageStore) -> None:
    put(store, b"first")
    put(store, b"second")
    assert store.get(KEY).content == b"second"


def test_what_is_not_there_is_not_found(store: FolderImageStore) -> None:
    assert not store.exists(KEY)
    with pytest.raises(ImageNotFoundError, match=f"has no {KEY}"):
        store.get(KEY)


def test_a_folder_of_files_is_no_file(store: FolderImageStore) -> None:
    put(store)
    with pytest.raises(ImageNotFoundError, match="has no images/2026"):
        store.get("images/2026")


def test_a_deleted_file_is_gone_and_may_be_deleted_again(
    store: FolderImageStore, options: FolderStoreOptions
) -> None:
    put(store)
    store.delete(KEY)
    store.delete(KEY)
    assert not store.exists(KEY)
    assert list(options.folder.rglob("*.json")) == []


@pytest.mark.parametrize(
    "key", ["../secret", "/etc/passwd", "a/../../b", ".signing-secret", "a/.0.png.json", "a\0b", ""]
)
def test_keys_that_leave_the_folder_or_name_hidden_files_are_refused(
    store: FolderImageStore, key: str
) -> None:
    with pytest.raises(KeyFormatError):
        store.get(key)
    with pytest.raises(KeyFormatError):
        put(store, key=key)


def test_a_reader_sees_whole_files_only(store: FolderImageStore) -> None:
    contents = [bytes([number]) * 2**20 for number in range(8)]
    put(store, contents[0])
    done = threading.Event()

    def read_until_done() -> set[bytes]:
        seen = set()
        while not done.is_set():
            seen.add(store.get(KEY).content)
        return seen

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(read_until_done) for _ in range(2)]
        for content in contents * 3:
            put(store, content)
        done.set()
        seen = set.union(*(reader.result() for reader in readers))
    assert seen <= set(contents)


def test_a_full_disk_leaves_nothing_half_written(store: FolderImageStore, tmp_path: Path) -> None:
    soft, hard = _limit_file_size(100_000)
    try:
        with pytest.raises(StoreUnavailableError, match=f"cannot write {KEY}: file too large"):
            put(store, b"x" * 200_000)
    finally:
        _limit_file_size(soft, hard)
    assert not store.exists(KEY)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_failed_replacement_leaves_the_first_file(store: FolderImageStore) -> None:
    put(store, b"first")
    soft, hard = _limit_file_size(100_000)
    try:
        with pytest.raises(StoreUnavailableError):
            store.put(KEY, b"x" * 200_000, content_type="image/webp", metadata={})
    finally:
        _limit_file_size(soft, hard)
    assert store.get(KEY) == StoredImage(b"first", "image/png", METADATA)


def test_a_folder_that_is_a_file_is_unavailable(options: FolderStoreOptions) -> None:
    options.folder.write_text("in the way")
    with pytest.raises(StoreUnavailableError, match="cannot write images/probe: "):
        FolderImageStore(options).check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_unavailable(options: FolderStoreOptions) -> None:
    options.folder.mkdir(mode=0o500)
    with pytest.raises(StoreUnavailableError, match="permission denied"):
        FolderImageStore(options).check()


@pytest.mark.parametrize("facts", [b"{", b"\xff\xfe\xff", b"\0" * 50, b"[]", b"3", b"{}"])
def test_damaged_facts_are_an_error(
    store: FolderImageStore, options: FolderStoreOptions, facts: bytes
) -> None:
    put(store)
    (options.folder / KEY).with_name(".0.png.json").write_bytes(facts)
    with pytest.raises(StoreUnavailableError, match=f"damaged metadata of {KEY}"):
        store.get(KEY)


def test_a_check_leaves_one_file(store: FolderImageStore, options: FolderStoreOptions) -> None:
    store.check()
    store.check()
    assert list_visible(options.folder) == {"images/probe"}


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://u:secret@a",
        "http://",
        "http://a/?b=c",
        "http://[::1",
        "http://a:b",
        "http://a/b c",
    ],
)
def test_a_base_url_is_an_http_url(options: FolderStoreOptions, base_url: str) -> None:
    with pytest.raises(StoreConfigurationError, match="base_url must be an HTTP URL") as raised:
        replace(options, base_url=base_url)
    assert "secret" not in str(raised.value)


def test_options_do_not_show_the_secret(options: FolderStoreOptions) -> None:
    assert "s" * 32 not in repr(replace(options, secret="s" * 32))


def test_a_store_can_be_pickled(options: FolderStoreOptions) -> None:
    store = build_store(options)
    store.check()
    assert pickle.loads(pickle.dumps(store)).exists("images/probe")


def _limit_file_size(soft: int, hard: int | None = None) -> tuple[int, int]:
    """Make writes beyond `soft` bytes fail with EFBIG, as a full disk makes them fail."""
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, previous[1] if hard is None else hard))
    return previous
