import errno

import pytest

from landmarks import errors
from landmarks.errors import InputError
from landmarks.files import replacing, sha256


def test_what_the_block_wrote_replaces_the_old_file_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for content in ("old", "new"):
        with replacing(path) as temporary:
            temporary.write_text(content)
            assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk is full; free some space"),
        (errno.EACCES, "cannot be written"),
        (errno.EPERM, "cannot be written"),
        (errno.EROFS, "cannot be written"),
        (errno.ENAMETOOLONG, "cannot be written"),
    ],
    ids=errno.errorcode.get,
)
def test_a_full_or_unwritable_disk_is_said_with_the_final_name(tmp_path, number, message):
    path = tmp_path / "file.txt"

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(number, "as the system says it", str(temporary))

    with pytest.raises(InputError, match=message) as caught:
        write()
    assert str(caught.value).startswith(f"{path}: ")
    assert list(tmp_path.iterdir()) == []


def test_other_system_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="broken"), replacing(tmp_path / "file.txt"):
        raise OSError(errno.EIO, "broken")


def test_sha256_is_the_published_digest_of_abc(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_bad_input_ends_a_stage_with_its_message_and_exit_code_1():
    def main():
        raise InputError("params.yaml: distance: 'L4' is not allowed")

    with pytest.raises(SystemExit) as caught:
        errors.run(main)
    # sys.exit prints a text to stderr and exits with 1.
    assert caught.value.code == "error: params.yaml: distance: 'L4' is not allowed"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError):
        errors.run(lambda: {}["a"])


def test_an_interrupted_stage_exits_with_130(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        errors.run(main)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
