"""What is wrong, and what to type: pure checks over what was seen, each one function. A new check is one function.

`health` holds what is looked at, `table` what a check is, the modules `…_checks` the checks: of tools, settings and agents
(`machine`), of the database, of open runs and their servers (`fleet`), of tasks that wait (`queue`), and of what is on disk
(`trace`). `every` has them all.
"""
