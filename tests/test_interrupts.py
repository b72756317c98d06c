"""Signals that ask the process to stop: noted, granted at a check, and at once where that is safe."""

from __future__ import annotations

import signal

import pytest

from genfusion_ns import interrupts
from genfusion_ns.interrupts import Interrupted, Interrupts


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_next_check(signum):
    stop, woken = Interrupts(), []
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as raised, stop.deferred(wake=lambda: woken.append(1)):
        signal.raise_signal(signum)
        assert woken == [1]
        stop.check()
    assert raised.value.code == 128 + signum
    assert signal.getsignal(signum) is before
    stop.check()  # nothing is left of it


def test_at_once_it_raises_wherever_the_program_is():
    stop, reached = Interrupts(), []
    with pytest.raises(Interrupted), stop.deferred(), stop.at_once():
        signal.raise_signal(signal.SIGTERM)
        reached.append("too far")
    assert not reached


def test_a_signal_from_before_is_granted_at_the_door():
    stop = Interrupts()
    with pytest.raises(Interrupted), stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        with stop.at_once():
            pytest.fail("it should not get here")


def test_a_second_signal_is_an_echo_or_an_order(monkeypatch):
    stop, clock, dealt = Interrupts(), [100.0], []
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(interrupts.signal, "raise_signal", lambda number: dealt.append(number))
    with stop.deferred():
        stop._note(signal.SIGTERM, None)
        stop._note(signal.SIGTERM, None)
        assert not dealt
        clock[0] += 2.0
        stop._note(signal.SIGTERM, None)
        assert dealt == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
