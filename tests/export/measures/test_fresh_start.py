"""The script that starts afresh: feeds by name or by order."""

from pathlib import Path

from compresskit.export.measures.fresh_start import feed_of, memory_bytes


def test_arrays_go_by_name_where_there_are_names_else_by_order():
    assert feed_of(["b", "a"], ["a", "b"], [1, 2]) == {"a": 1, "b": 2}
    assert feed_of(["x", "y"], [], [1, 2]) == {"x": 1, "y": 2}
    assert feed_of(["renamed"], ["x"], [1]) == {"renamed": 1}


def test_memory_is_that_of_this_process():
    now, most = memory_bytes("VmRSS"), memory_bytes("VmHWM")
    if Path("/proc/self/status").exists():
        assert 0 < now <= most
    assert memory_bytes("VmNothing") is None
