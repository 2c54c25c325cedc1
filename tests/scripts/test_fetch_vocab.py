"""scripts/fetch_vocab.py through its command line, from local files."""


def test_a_local_copy_is_checked_and_installed(run_forked, google_vocab, tmp_path):
    target = tmp_path / "models" / "google_zh_vocab.txt"
    flags = ["--from_file", str(google_vocab), "--output_path", str(target)]
    assert run_forked("scripts/fetch_vocab.py", *flags).returncode == 0
    assert target.read_bytes() == google_vocab.read_bytes()
    assert "already there" in run_forked("scripts/fetch_vocab.py", *flags).stdout


def test_another_file_is_refused(run_forked, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("[PAD]\n", encoding="utf-8")
    target = tmp_path / "google_zh_vocab.txt"
    for flags in (["--from_file", str(other)], ["--from_file", str(tmp_path / "none.txt")]):
        result = run_forked("scripts/fetch_vocab.py", *flags, "--output_path", str(target))
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        assert not target.exists()
    result = run_forked("scripts/fetch_vocab.py", "--output_path", str(other))
    assert result.returncode == 2
    assert "move it away first" in result.stderr
