"""Scheduled runs, each of which begins once however many schedulers are up."""
