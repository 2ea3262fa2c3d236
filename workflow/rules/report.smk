from fewshot.workflow.tables_state import stamp_file

TABLES = str(PLAN.tables_dir)
# The tables have a fixed path; the name of the stamp holds their key.
TABLE = str(stamp_file(PLAN))


rule report:
    input:
        ancient(all_outputs("evaluate")),
    output:
        stamp=TABLE,
        csv=report(
            f"{TABLES}/results.csv",
            category="Results",
            caption="../report/results.rst",
        ),
        page=report(
            f"{TABLES}/report.html",
            category="Results",
            caption="../report/page.rst",
        ),
        figure=report(
            f"{TABLES}/figures/accuracy.svg",
            category="Results",
            caption="../report/accuracy.rst",
        ),
        markdown=f"{TABLES}/results.md",
        latex=f"{TABLES}/results.tex",
        runs=f"{TABLES}/runs.csv",
        metrics=f"{TABLES}/metrics.json",
        text=f"{TABLES}/results.txt",
        manifest=f"{TABLES}/manifest.json",
    log:
        f"logs/report/{SUITE}.log",
    localrule: not STORAGE
    params:
        fewshot=FEWSHOT,
        settings=SETTINGS,
        results=results_of("tables"),
    message:
        f"report {SUITE}"
    shell:
        "exec bash workflow/scripts/logged.sh {log} {params.fewshot} report {params.settings} --results {params.results:q}"


onsuccess:
    if STORAGE:
        tell(f"Tables: {STORAGE}/{TABLES}")
    else:
        tell(ending())


onerror:
    if STOP.happened:
        tell(stop_summary(PLAN, STOP, results_are_here=not STORAGE))
        sys.exit(130)
    elif STORAGE:
        tell("Fix the failure, then rerun the same command to run what is missing.")
    else:
        shell(
            "{FEWSHOT} report {SETTINGS} --allow-missing --out results/partial/{SUITE} || true"
        )
        tell(
            f"Fix the failure, then finish the suite: snakemake --cores all --config suite={SUITE}"
            "  (runs only what is missing; then 'dvc repro' records it)"
        )
