rule download:
    output:
        "data/raw/{dataset}-{key}.json",
    log:
        "logs/download/{dataset}-{key}.log",
    localrule: True
    message:
        "download {wildcards.dataset}"
    shell:
        "bash workflow/scripts/logged.sh {log} {FEWSHOT} download {wildcards.dataset} --suite {SUITE}"


def raw_files(wildcards):
    job = PLAN.find("prepare", wildcards.dataset, wildcards.key)
    return ancient([str(job.download_record)]) if job.downloads else []


rule prepare:
    input:
        raw_files,
    output:
        manifest=report(
            "results/prepare/{dataset}/{key}/manifest.json",
            category="Data",
            caption="../report/prepare.rst",
        ),
    log:
        "logs/prepare/{dataset}-{key}.log",
    benchmark:
        "logs/benchmarks/prepare/{dataset}-{key}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
    message:
        "prepare {wildcards.dataset}"
    shell:
        "bash workflow/scripts/logged.sh {log} {FEWSHOT} prepare {wildcards.dataset} --key {wildcards.key} --suite {SUITE}"


rule prepare_all:
    input:
        made("prepare"),
