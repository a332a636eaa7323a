from __future__ import annotations

from hashlib import sha256

from common.digests import file_sha256


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == file_sha256(str(tmp_path / "a")) == sha256(content).hexdigest()
