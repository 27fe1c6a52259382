// What stands on the page, a section per kind of results.
#pragma once
#include "page.h"
#include "panels.h"

namespace stuffed::report {

/// One row per result.
void add_overview(Page& page, const std::vector<Run>& runs);
/// Each adds nothing if there are no runs of its kind.
void add_losses(Page& page, const Runs& runs, int64_t last_tokens);
void add_mitigated_losses(Page& page, const Runs& runs);
void add_passkeys(Page& page, const Runs& runs);
/// The other tasks of retrieval.
void add_retrieval(Page& page, const Runs& runs);
/// Tables of what mitigations change; empty without any.
std::string mitigated_passkeys(const Runs& runs);
void add_states(Page& page, const Runs& runs);
void add_retention(Page& page, const Runs& runs);
void add_fits(Page& page, const Runs& runs);
void add_training(Page& page, const Runs& runs);
/// Verdicts of `verify` and times of `bench`.
void add_checks(Page& page, const Runs& verify, const Runs& bench);
/// How each result was made.
void add_provenance(Page& page, const std::vector<Run>& runs);

}  // namespace stuffed::report
