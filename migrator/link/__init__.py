"""Several files that are read as one: classes that a file imports from its siblings are part of what it says.

Files -> units (`units.py`), a unit -> one text (`linking.py`), what becomes of that text -> the files (`parting.py`).
"""
