"""The daemon: one loop that makes every status true, starts what is ready while there is room, and sleeps.

The loop itself never waits for anything but the next thing to happen. Whatever may take long or hang (tmux, git, hooks, a
queue before a write) is done by workers: a reconcile at every interval, and one `dispatch` of one task for each task that is
to be started. So a hook that hangs keeps its own task waiting and nothing else, and the loop hears a signal at once. Nothing
is remembered that the database does not know: killed at any instruction, the next start goes on.

`loop` is the loop, `crew` the workers that are under way, `tasks` what they do, `log` what is said of it all.
"""

from dispatchctl.watch.log import Entry, Say
from dispatchctl.watch.loop import Attendant, Servant, refuse_another, watch
from dispatchctl.watch.tasks import Options

__all__ = ["Attendant", "Entry", "Options", "Say", "Servant", "refuse_another", "watch"]
