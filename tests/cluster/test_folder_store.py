"""The folder store on a real disk, among real processes."""

import os
import pickle
import resource
import stat
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import (
    ImageNotFoundError,
    KeyFormatError,
    StoreConfigurationError,
    StoreUnavailableError,
    UrlExpiredError,
    UrlSignatureError,
)
from cluster.storage import FolderImageStore, FolderStoreOptions, StoredImage, build_store
from cluster.storage.signing import load_secret, sign_key, verify_signature

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


def sign(store: FolderImageStore, lifetime_s: int = 60) -> tuple[int, str]:
    query = parse_qs(urlsplit(store.sign(KEY, lifetime_s=lifetime_s).url).query)
    return int(query["expires"][0]), query["signature"][0]


def read_secret(options: FolderStoreOptions) -> bytes:
    """Run in a process of its own: return the secret that all of them must share."""
    FolderImageStore(options).check()
    return load_secret(options.folder)


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


def test_damaged_facts_are_an_error(store: FolderImageStore, options: FolderStoreOptions) -> None:
    put(store)
    (options.folder / KEY).with_name(".0.png.json").write_text("{")
    with pytest.raises(StoreUnavailableError, match=f"damaged metadata of {KEY}"):
        store.get(KEY)


def test_a_check_leaves_one_file(store: FolderImageStore, options: FolderStoreOptions) -> None:
    store.check()
    store.check()
    assert list_visible(options.folder) == {"images/probe"}


def test_a_url_names_the_key_below_the_base_url(options: FolderStoreOptions) -> None:
    store = FolderImageStore(replace(options, base_url="https://example.org/zimage/"))
    signed = store.sign(KEY, lifetime_s=60)
    assert signed.url.startswith(f"https://example.org/zimage/v1/files/{KEY}?expires=")
    assert f"expires={signed.expires_at}&" in signed.url


def test_a_signed_url_is_good_until_it_expires(store: FolderImageStore) -> None:
    expires_at, signature = sign(store)
    store.verify(KEY, expires_at, signature, now=expires_at - 1)
    with pytest.raises(UrlExpiredError, match="expired 5 s ago"):
        store.verify(KEY, expires_at, signature, now=expires_at + 5)


def test_another_key_needs_another_signature(store: FolderImageStore) -> None:
    expires_at, signature = sign(store)
    with pytest.raises(UrlSignatureError):
        store.verify(KEY.replace("0.png", "1.png"), expires_at, signature, now=0)


def test_a_later_expiry_needs_another_signature(store: FolderImageStore) -> None:
    expires_at, signature = sign(store)
    with pytest.raises(UrlSignatureError):
        store.verify(KEY, expires_at + 1, signature, now=0)


@pytest.mark.parametrize("signature", ["", "0" * 64, "é", "\ud800"])
def test_a_made_up_signature_is_refused(store: FolderImageStore, signature: str) -> None:
    with pytest.raises(UrlSignatureError):
        store.verify(KEY, 2**40, signature, now=0)


@given(st.binary(min_size=32), st.binary(min_size=32), st.text(), st.integers(1, 2**40))
def test_only_the_secret_that_signed_verifies(
    secret: bytes, other: bytes, key: str, expires_at: int
) -> None:
    signature = sign_key(secret, key.encode("utf-8", "replace").decode(), expires_at)
    clean = key.encode("utf-8", "replace").decode()
    verify_signature(secret, clean, expires_at, signature, now=0)
    with pytest.raises(UrlSignatureError):
        verify_signature(other + b"x", clean, expires_at, signature, now=0)


@pytest.mark.parametrize("lifetime_s", [0, -1, 7 * 24 * 3600 + 1])
def test_a_url_lives_up_to_seven_days(store: FolderImageStore, lifetime_s: int) -> None:
    with pytest.raises(ValueError, match=r"lifetime_s must be in \[1, 604800\]"):
        store.sign(KEY, lifetime_s=lifetime_s)


def test_a_given_secret_signs_alike_in_any_folder(
    options: FolderStoreOptions, tmp_path: Path
) -> None:
    given_secret = replace(options, secret="s" * 32)
    elsewhere = replace(given_secret, folder=tmp_path / "elsewhere")
    expires_at, signature = sign(FolderImageStore(given_secret))
    FolderImageStore(elsewhere).verify(KEY, expires_at, signature, now=0)


def test_the_drawn_secret_is_the_owners_alone(
    store: FolderImageStore, options: FolderStoreOptions
) -> None:
    store.check()
    secret = options.folder / ".signing-secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert len(secret.read_bytes()) == 64


def test_a_secret_that_others_can_read_is_refused(
    store: FolderImageStore, options: FolderStoreOptions
) -> None:
    store.check()
    (options.folder / ".signing-secret").chmod(0o644)
    with pytest.raises(StoreConfigurationError, match="readable by its owner only, got 644"):
        store.check()


def test_racers_for_the_first_secret_share_one(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)
    folders = [tmp_path / str(number) for number in range(10)]

    def race(folder: Path) -> bytes:
        folder.mkdir(exist_ok=True)
        barrier.wait()
        return load_secret(folder)

    with ThreadPoolExecutor(4) as pool:
        counts = [len(set(pool.map(race, [folder] * 4))) for folder in folders]
    assert counts == [1] * 10


def test_processes_that_start_together_share_one_secret(options: FolderStoreOptions) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        secrets = set(pool.map(read_secret, [options] * 16))
    assert len(secrets) == 1
    assert list(options.folder.glob("*.part")) == []


def test_a_short_secret_is_refused(options: FolderStoreOptions) -> None:
    with pytest.raises(StoreConfigurationError, match="at least 32 bytes, got 5"):
        replace(options, secret="short")


@pytest.mark.parametrize("base_url", ["", "127.0.0.1:8000", "ftp://a", "http://", "http://a/?b=c"])
def test_a_base_url_is_an_http_url(options: FolderStoreOptions, base_url: str) -> None:
    with pytest.raises(StoreConfigurationError, match="base_url must be an HTTP URL"):
        replace(options, base_url=base_url)


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
