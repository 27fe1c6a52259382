// Documents as they come from their files, whole: the token source cuts, skips and joins them.
#pragma once
#include <functional>
#include <optional>

#include "stuffed/io/token_source.h"

namespace stuffed::io {

using RawDocuments = std::function<std::optional<Document>()>;

RawDocuments text_documents(const SourceOptions& options,
                            std::shared_ptr<const Tokenizer> tokenizer,
                            json& identity);
RawDocuments jsonl_documents(const SourceOptions& options,
                             std::shared_ptr<const Tokenizer> tokenizer,
                             json& identity);
RawDocuments token_documents(const SourceOptions& options, json& identity);
RawDocuments prompt_document(const SourceOptions& options,
                             std::shared_ptr<const Tokenizer> tokenizer,
                             json& identity);

}  // namespace stuffed::io
