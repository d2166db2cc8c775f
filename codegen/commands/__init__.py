"""The commands of `attnspec`, one a module. Each imports what it needs when it runs."""
