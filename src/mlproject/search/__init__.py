"""A study of Optuna over trainings of heads on embeddings that are there: which there are, who runs them, what is kept.

space.py     words of the options -> what may be chosen
store.py     where the study is kept: a journal or a database, its settings, its trials by state
sampling.py  who proposes trials, and who ends them early
trials.py    one trial: a head trained on embeddings, and its validation numbers
workers.py   processes that train trials
mirror.py    trials as runs in the tracking store
running.py   the search itself: who does what, in turn

The command alone talks to Optuna's store, workers only to the command: a worker that is killed leaves nothing torn.
"""
