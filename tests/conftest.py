"""Shared options and helpers of the tests."""

from __future__ import annotations

import collections
import os
import shutil
from pathlib import Path

# Kernels that one test compiled serve the next, and the next run.
KERNELS = Path(__file__).resolve().parents[1] / ".pytest_cache" / "kernels"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KERNELS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import pytest

KERNELS_LIMIT = 2**30  # bytes; beyond it they are thrown away before a run
SHARED = Path(__file__).resolve().parents[2] / "shared"
LONG = Path(__file__).with_name("long.txt")  # tests that a plain run skips, a line each
LONG_SECONDS = 3.0
ONE_BY_ONE = 100  # cases that were asked for by name are all run
# Of the long cases of a test CI runs every second one, of some that are many of a kind one of so many, and of some all;
# --every runs all.
WHOLE = {
    "test_docs.py::test_page", "test_notebooks.py::test_notebook", "test_shelf.py::test_every_site_has_its_role",
    "test_gold.py::test_earthquakes", "test_verdicts.py::test_a_fit_through_all_points_has_collapsed",
}  # fmt: skip
THINNED = {
    "test_scans.py::test_equals_enumeration_of_the_unrolled_program": 6,
    "test_scans.py::test_few_steps": 3,
    "test_scans.py::test_labels_count_where_states_are_not_masked": 3,
    "test_outsider_gaussian.py::test_is_right": 6,
    "test_outsider_state_space.py::test_log_z_and_its_gradient": 5,
    "test_outsider_state_space.py::test_moments": 5,
    "test_gaussian_speed.py::test_sums_over_rows_say_what_the_rows_do": 6,
    "test_gaussian_speed.py::test_crossed_latents_by_edges_and_whole": 3,
    "test_gaussian_inputs.py::test_laws_that_are_gaussian_under_another_name": 3,
    "test_blocks.py::test_m_step_is_the_maximum": 5,
    "test_chain.py::test_equals_enumeration_of_all_paths": 3,
    "test_random_programs.py::test_any_program": 2,
    "test_random_programs.py::test_missing_cells_gathers_masks_and_labels": 2,
    "test_random_gaussian.py::test_any_program": 2,
    "test_numpyro_programs.py::test_fitted_by_every_method": 5,
    "test_sklearn.py::test_every_form_is_an_estimator": 8,
    "test_cache.py::test_keys_do_not_hang_on_the_process": 2,
    "test_state_space.py::test_log_z": 3,
    "test_state_space.py::test_draws": 3,
    "test_state_space.py::test_moments": 2,
    "test_numpyro_programs.py::test_equals_numpyros_own_log_density": 4,
    "test_shelf.py::test_em_never_descends": 2,
    "test_shelf.py::test_nuts_runs": 10,
    "test_shelf.py::test_saved_and_loaded": 8,
    "test_shelf.py::test_em_and_mle_agree": 3,
    "test_shelf.py::test_recovers_its_parameters": 3,
    "test_labels.py::test_relabelling_leaves_the_likelihood_unchanged": 2,
    "test_sklearn.py::test_is_an_estimator": 3,
    "test_sklearn.py::test_chain_is_that_of_hmmlearn": 2,
    "test_sklearn.py::test_mixture_is_that_of_scikit_learn": 2,
    "test_sklearn.py::test_families_have_their_laws": 2,
    "test_streamed.py::test_chunks_say_what_all_rows_say": 3,
    "test_pictures.py::test_models_draw_their_own_picture": 3,
    "test_missing.py::test_em_and_mle_agree": 2,
    "test_scans.py::test_transition_counts_of_higher_order": 2,
    "test_state_space.py::test_em_ascends_by_the_gradient_of_log_z": 2,
    "test_state_space.py::test_pointwise_log_likelihood_adds_up": 3,
    "test_everyday.py::test_numbers_of_any_kind_in_an_observation": 2,
    "test_textbook_gaussian.py::test_it_is_read_and_right": 2,
    "test_densities.py::test_a_concentration_without_bound_ends_at_the_limit": 2,
    "test_scaling.py::test_optimum_is_the_same_in_all_units": 3,
    "test_outsider_gaussian.py::test_both_ways_end_at_one_maximum": 2,
    "test_outsider_state_space.py::test_what_is_known_before_later_data": 3,
    "test_shelf.py::test_gradient_is_zero_or_the_status_says_why_not": 3,
    "test_streamed.py::test_groups_of_rows_are_units": 2,
    "test_streamed.py::test_missing_in_some_chunks_only": 2,
    "test_gaussian_shown.py::test_every_verb_knows_models_of_real_latents_alone": 2,
    "test_pictures.py::test_nothing_overlaps_or_is_cut": 2,
    "test_gold_latents.py::test_a_uniqueness_of_zero_is_at_the_boundary": 2,
    "test_densities.py::test_value_slope_curvature_and_fit": 2,
}


def pytest_configure(config):
    if not hasattr(config, "workerinput") and KERNELS.exists():
        if sum(f.stat().st_size for f in KERNELS.iterdir()) > KERNELS_LIMIT:
            shutil.rmtree(KERNELS)


def note_long(terminalreporter):
    """Rewrite the list of long tests by how long each took."""
    every = [r for reports in terminalreporter.stats.values() for r in reports]
    calls = [r for r in every if getattr(r, "when", "") == "call"]
    long = {r.nodeid for r in calls if r.duration > LONG_SECONDS and "slow" not in r.keywords}
    LONG.write_text("".join(f"{name.partition('/')[2]}\n" for name in sorted(long)))


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--note-long"):
        note_long(terminalreporter)
    count_programs(terminalreporter)


def count_programs(terminalreporter):
    """How many of the programs of NumPyro's documentation, and of the random ones, are right."""
    ended = [
        (status, report)
        for status in ("passed", "failed")
        for report in terminalreporter.getreports(status)
        if "test_numpyro_programs" in report.nodeid and report.when == "call"
    ]
    failed = {r.nodeid.partition("[")[2] for status, r in ended if status == "failed"}
    every = {r.nodeid.partition("[")[2] for _, r in ended}
    if every:
        terminalreporter.write_line(
            f"{len(every - failed)} of {len(every)} programs of NumPyro's documentation are right"
        )
    counts = [
        value
        for status in ("passed", "failed")
        for report in terminalreporter.getreports(status)
        if report.when == "call"
        for name, value in report.user_properties
        if name == "random programs"
    ]
    if counts:
        right, refused, total = (sum(column) for column in zip(*counts, strict=True))
        terminalreporter.write_line(
            f"{right} of {total} random programs are right, {refused} refused with a reason"
        )


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the long checks too")
    parser.addoption("--every", action="store_true", help="and those that even --slow thins")
    parser.addoption(
        "--note-long", action="store_true",
        help=f"with --slow: list the tests that took over {LONG_SECONDS:g} s in {LONG.name}",
    )  # fmt: skip


def pytest_collection_modifyitems(config, items):
    listed = set(LONG.read_text().splitlines())
    long = [i for i in items if "slow" in i.keywords or i.nodeid.partition("/")[2] in listed]
    if not config.getoption("--slow"):
        for item in long:
            item.add_marker(pytest.mark.skip(reason="long; run with --slow"))
    elif not config.getoption("--every") and len(items) > ONE_BY_ONE:
        seen = collections.Counter()
        for item in long:
            name = item.nodeid.partition("/")[2].partition("[")[0]
            if seen[name] % THINNED.get(name, 1 if name in WHOLE else 2):
                item.add_marker(pytest.mark.skip(reason="one of many of a kind; run with --every"))
            seen[name] += 1


@pytest.fixture(scope="session")
def galaxies():
    """The galaxies model, read once."""
    from pp_mlem import Model
    from pp_mlem.show.catalogue import find_model

    shelf = find_model("galaxies")
    return Model(shelf.program, **shelf.data(), K=3)


@pytest.fixture(scope="session")
def galaxies_em(galaxies):
    from pp_mlem import fit_em

    return fit_em(galaxies, starts=20, seed=0)


@pytest.fixture(scope="session")
def small_nuts(galaxies):
    from pp_mlem import fit_nuts

    return fit_nuts(galaxies, chains=2, warmup=300, draws=300, seed=1)
