// Whether records that are read back from train.jsonl are such as train writes.
#pragma once
#include "stuffed/io/json.h"
#include "stuffed/train/trainer.h"

namespace stuffed::train {

std::string step_key(int64_t step);
std::string validation_key(int64_t step, std::string_view source);
std::string spike_key(int64_t step);

/// For JournalHeader::check_record.
/// Errors  Input, or json::exception for a field that is missing
void check_record(const io::json& record, const TrainConfig& config);

}  // namespace stuffed::train
