"""The tests and what they are made of; `README.md` says what each folder claims."""
