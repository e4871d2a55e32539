"""A NumPyro program read as sites, roles, plates, bindings and a parameter space.

The way of a program, file by file:

- `arguments` (with `leaves`, `containers`, `arrays`, `frames`): what of its arguments is data;
- `trace`: one run under NumPyro's handlers, recorded as `messages`; `draw`: one that draws;
- `distributions`, `domains`, `densities`: what a site's distribution is, its values, its log density;
- `first_run`, `neutral_run`: its sites at values inside their supports (`initial`);
- `depend` (with `parts`, `provenance`), `roles`, `plates`, `rows`: what depends on what, what each site
  is, its dimensions, its data cut to what a reading needs;
- `read_program` brings these together as a `Reading`, which `run` runs with latents enumerated;
- `bindings`, `space`, `neutral`: its parameters;
- `scans/`: the steps of a scan over finite states; `checks/`: what data may not do;
- `errors`, `failures`: what is told where a program cannot be read.
"""
