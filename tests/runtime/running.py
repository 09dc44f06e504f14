"""``mla-edge`` in a process of its own, with what it says as it says it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

PATIENT_S = 40.0  # on a busy machine


class Running:
    """A run whose lines are collected as they come, each with its moment."""

    def __init__(self, folder, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mla_edge", *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},  # an abort shows all threads
        )
        self.decisions, self.words, self.last = [], [], {}
        self._threads = [
            threading.Thread(target=self._collect_decisions),
            threading.Thread(target=self._collect_words),
        ]
        for thread in self._threads:
            thread.start()

    def _collect_decisions(self):
        for line in self.process.stdout:
            found = json.loads(line)
            if "label" in found:
                self.decisions.append(found)
            else:
                self.last = found

    def _collect_words(self):
        for line in self.process.stderr:
            self.words.append(line.rstrip("\n"))

    def until(self, condition, what):
        end_s = time.monotonic() + PATIENT_S
        while not condition():
            assert self.process.poll() is None, f"it ended before {what}: {self.words}"
            if time.monotonic() > end_s:
                self.process.send_signal(signal.SIGABRT)
                time.sleep(2)
                raise AssertionError(f"never {what}:\n" + "\n".join(self.words))
            time.sleep(0.01)

    def says(self, text, count=1):
        """Wait until so many lines on stderr have the text."""
        self.until(lambda: sum(text in line for line in self.words) >= count, text)

    def decides(self, mode, count=3):
        """Wait for so many more decisions in that mode."""
        number = len(self.decisions)
        self.until(
            lambda: sum(made["mode"] == mode for made in self.decisions[number:]) >= count, mode
        )

    def stop(self, number=signal.SIGTERM):
        """End it by a signal; how long that took, and its exit code."""
        begun_s = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(PATIENT_S)
        taken_s = time.monotonic() - begun_s
        self.close()
        return code, taken_s

    def close(self):
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()
        self.process.stdout.close()
        self.process.stderr.close()


@contextlib.contextmanager
def running(folder, *words):
    run = Running(folder, *words)
    try:
        yield run
    finally:
        if not run.process.stdout.closed:
            run.close()
