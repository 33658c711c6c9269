"""Telling the user that a task wants him, ended, or that nothing is left to do: edges of the history, each told once.

* Every edge is an event, and a cursor in the database says up to which event everything was told. It is moved before
  anything is sent: an event is never told twice, and one is lost only with a daemon that dies while it is sent.
* What tells (tmux, notify-send, the user's command, apprise) runs aside, with a time limit, one of a kind at a time. One that
  hangs or fails is said once in the log, and keeps nobody waiting but itself.
* However much happens at once, few notices are sent: a handful alone, then one that counts the rest (`burst`).

`edges` says what is told, `burst` how much of it, `message` in which words, `ways` how; `sending` does it.
"""

from dispatchctl.notices.sending import Notices

__all__ = ["Notices"]
