"""The program in a computer that is only a model, driven through random histories by `test_model`.

Real is all that decides and all that is durable: the store, observation, plan, mend, reconcile, launch, the steps, what the
launcher writes, git's callers, lock files and run directories. A model is what they act on: `computer` has processes, tmux
servers, a clock and reboots, `repository` a git of a few commands, `pane` the life of a launcher, `doors` puts them where the
real ones are.

Every process of ours is a thread (`players`) that stands still at each fault point and at each look at the outside, so that
a history says who goes on by how far. One that is killed never gets past the point where it stands.
"""
