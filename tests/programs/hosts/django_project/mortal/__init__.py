"""A database whose server can be restarted, for tests: SQLite, of whose connections an account is kept."""
