"""Scheduled runs. Each begins once, however many schedulers are up."""
