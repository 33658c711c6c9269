"""Telling the user that a task wants him, ended, or that nothing is left to do: edges of the history, each told once.

* Every edge is an event. For each way and kind of edge, a cursor in the database says up to which event that way has told. It
  is moved before a notice is begun: nothing is told twice, and lost is only what was being sent when the daemon died. What
  was not begun is told by the next daemon.
* One more cursor says from where the next daemon reads: behind it nothing waits for any way.
* What tells (tmux, notify-send, the user's command, apprise) runs aside, with a time limit, one of a kind at a time. One that
  hangs or fails is said once in the log, and keeps nobody waiting but itself.
* However much happens at once, few notices are sent: a handful alone, then one that counts the rest (`burst`).

`edges` says what is told and `reading` finds it, `burst` says how much, `message` in which words, `ways` how; `sending` sends.
"""

from dispatchctl.notices.sending import Notices

__all__ = ["Notices"]
