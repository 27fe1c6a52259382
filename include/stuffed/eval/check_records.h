// Whether records that are read back from a journal are such as the commands write: sums and
// figures are made of them without a second look.
#pragma once
#include "stuffed/io/json.h"

namespace stuffed::eval {

/// Of a record whose key is document=<its number>; -1 for the summary.
/// Errors  Input for another key
int64_t document_number(const io::json& record);

/// For JournalHeader::check_record, by command.
/// Errors  Input, or json::exception for a field that is missing or of another type
void check_ppl_record(const io::json& record, int64_t bucket_tokens);
void check_state_stats_record(const io::json& record);
void check_retention_record(const io::json& record);
void check_passkey_record(const io::json& record, int64_t depths);
void check_retrieval_record(const io::json& record, int64_t depths);

}  // namespace stuffed::eval
