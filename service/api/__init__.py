"""HTTP in, HTTP out: routes, parameters, schemas, the error table."""
