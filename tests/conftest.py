"""Without torch, as on a board, the tests that need it are not collected, and that is said."""

import importlib.util

NEED_TORCH = ("networks", "exporter", "examples", "test_packaging.py")

WITHOUT_TORCH = importlib.util.find_spec("torch") is None
collect_ignore = list(NEED_TORCH) if WITHOUT_TORCH else []


def pytest_report_header():
    if WITHOUT_TORCH:
        return f"torch is not installed: tests/{{{','.join(NEED_TORCH)}}} are not run"
    return None
