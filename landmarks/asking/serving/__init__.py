"""The web page of `landmarks serve` and its JSON API: one photo in, the answers of the index out.

`server` starts it; `schemas` says what the API answers, `connections`, `guard` and `uploads` refuse,
`service` works, `api` has the routes, and `page/` the files that the browser gets.
"""
